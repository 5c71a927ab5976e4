"""What is wrong with the values of a request: pydantic's findings as a problem."""

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from fastapi.exceptions import RequestValidationError

from prompt_store.names import shown
from service.body_members import Place
from service.problems import FieldProblem, Problem

_PLACES = ("path", "query", "header", "body")
_LIMITS = ("ge", "gt", "le", "lt", "min_length", "max_length")
"""What pydantic calls the bounds of numbers, texts and lists."""

_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")
_NOT_REPEATED = ("value_error", "too_long", "too_short")
"""Told of the whole: repeating it would say nothing."""

_SHOWN_CHARACTERS = 80
_SUBJECT = re.compile(r"^(Input|String|List) should")


def validation_problem(
    error: RequestValidationError, members: Mapping[Place, list[str]] | None = None
) -> Problem:
    """Return 422 (400 for malformed JSON) naming each offending value and its limit.

    Args:
        error: What pydantic found.
        members: The names that there are, by the place in the body where another was found.
    """
    found = error.errors()
    malformed = any(item["type"] == "json_invalid" for item in found)
    entries = [_malformed(item) if malformed else _entry(item, members or {}) for item in found]
    told: dict[str, Any] = {}
    if entries:
        documents = [entry.model_dump(exclude_none=True) for entry in entries]
        told = {"field": entries[0].field, "limit": entries[0].limit, "errors": documents}
    return Problem(
        400 if malformed else 422,
        "malformed-json" if malformed else "invalid-request",
        "The body is not JSON" if malformed else "The request is not valid",
        "; ".join(entry.detail for entry in entries),
        told,
    )


def unknown_places(error: RequestValidationError) -> list[Place]:
    """Return where in the body there are names that nothing reads."""
    found = error.errors()
    return [tuple(item["loc"][1:-1]) for item in found if item["type"] in _UNKNOWN]


def _malformed(item: dict[str, Any]) -> FieldProblem:
    """Where the text stops being JSON; pydantic has the character where a field's name would be."""
    return FieldProblem(
        field="body", detail=f"body: {item['ctx']['error']} at character {item['loc'][-1]}"
    )


def _entry(item: dict[str, Any], members: Mapping[Place, list[str]]) -> FieldProblem:
    """One wrong value: its name, the value unless it is the whole body, and what it may be."""
    field, bounds = _field(item), item.get("ctx", {})
    if item["type"] in _UNKNOWN:
        names = ", ".join(members.get(tuple(item["loc"][1:-1]), ()))
        there_is = "there is" if "," not in names else "there are"
        detail = f"{shown(field)} is not known here; {there_is} {names or 'none'}"
        return FieldProblem(field=field, detail=detail, limit=names or None)
    return FieldProblem(
        field=field,
        detail=_detail(item, field),
        limit=next((bounds[name] for name in _LIMITS if name in bounds), None),
    )


def _detail(item: dict[str, Any], field: str) -> str:
    """What is wrong, in a sentence."""
    kind, value = item["type"], item["input"]
    if kind == "missing":
        return f"{field} is missing"
    message = item["msg"].removeprefix("Value error, ")
    is_repeated = field != "body" and kind not in _NOT_REPEATED
    subject = f"{field} {_shown(value)}" if is_repeated else field
    if isinstance(value, float) and math.isnan(value):
        return f"{subject} is not a number"
    if kind == "string_pattern_mismatch":
        pattern = item["ctx"]["pattern"].removeprefix("^").removesuffix("$")
        return f"{subject} does not match {pattern}{_hint(item)}"
    if _SUBJECT.match(message):
        return _SUBJECT.sub(lambda _: f"{subject} should", message)
    return f"{subject}: {message}"


def _hint(item: dict[str, Any]) -> str:
    """Where the version belongs that somebody wrote behind a name."""
    if item["loc"] == ("path", "name") and "@" in item["input"]:
        return "; a version is told by ?version= or /versions/N"
    return ""


def _shown(value: object) -> str:
    """A value as JSON has it, and texts as other problems do, cut to a safe length."""
    if isinstance(value, str):
        return shown(value)
    text = ""
    for piece in json.JSONEncoder(default=str).iterencode(value):  # no more than is shown
        text += piece
        if len(text) > _SHOWN_CHARACTERS:
            return f"{text[:_SHOWN_CHARACTERS]}…"
    return text


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
    return text.removeprefix(".")[:_SHOWN_CHARACTERS]
