"""What is wrong with the values of a request: pydantic's findings as a problem."""

from typing import Any

from fastapi.exceptions import RequestValidationError

from service.problems import FieldProblem, Problem

_PLACES = ("path", "query", "header", "body")
_LIMITS = ("ge", "gt", "le", "lt", "min_length", "max_length")
"""What pydantic calls the bounds of numbers, texts and lists."""


def validation_problem(error: RequestValidationError) -> Problem:
    """Return 422 (400 for malformed JSON) naming each offending value and its limit."""
    found = error.errors()
    malformed = any(item["type"] == "json_invalid" for item in found)
    entries = [_malformed(item) if malformed else _entry(item) for item in found]
    members: dict[str, Any] = {}
    if entries:
        documents = [entry.model_dump(exclude_none=True) for entry in entries]
        members = {"field": entries[0].field, "limit": entries[0].limit, "errors": documents}
    return Problem(
        400 if malformed else 422,
        "malformed-json" if malformed else "invalid-request",
        "The body is not JSON" if malformed else "The request is not valid",
        "; ".join(f"{entry.field}: {entry.detail}" for entry in entries),
        members,
    )


def _malformed(item: dict[str, Any]) -> FieldProblem:
    """Where the text stops being JSON; pydantic has the character where a field's name would be."""
    return FieldProblem(
        field="body", detail=f"{item['ctx']['error']} at character {item['loc'][-1]}"
    )


def _entry(item: dict[str, Any]) -> FieldProblem:
    """One wrong value; what was received is not repeated."""
    bounds = item.get("ctx", {})
    return FieldProblem(
        field=_field(item),
        detail=item["msg"].removeprefix("Value error, "),
        limit=next((bounds[name] for name in _LIMITS if name in bounds), None),
    )


def _field(item: dict[str, Any]) -> str:
    """Where the value is, such as `sources[0]` or `options.shrinkage`.

    pydantic also names the member of a union that it tried, such as `literal['all']`: that is left
    out. Only an unknown name, which is the caller's own, may look like one.
    """
    first, *inner = item["loc"]
    parts = inner if first in _PLACES and inner else [first, *inner]
    if item["type"] != "extra_forbidden":
        parts = [part for part in parts if isinstance(part, int) or "[" not in part]
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)
    return text.removeprefix(".")
