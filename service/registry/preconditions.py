"""`If-Match` and `If-None-Match` of requests that read or change something (RFC 9110, 13.1).

An alias's entity tag is the number of its last move in quotes, such as `"7"`; that of a prompt or a
task is the digest of its latest version, which its content has too.
"""

import re
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers

from prompt_store.errors import PreconditionFailedError
from service.problems import PRECONDITION_FAILED, Problem, ProblemError, problem_error

_QUOTED = r'(W/)?"([\x21\x23-\x7e\x80-\xff]*)"'
_TAG = re.compile(_QUOTED)
_TAGS = re.compile(rf"[\s,]*(?:{_QUOTED}\s*(?:,[\s,]*|$))+")
_SHOWN_CHARACTERS = 80


def header_parameter(name: str, description: str) -> dict[str, Any]:
    """Return the OpenAPI parameter of a header that may be sent."""
    return {
        "name": name,
        "in": "header",
        "required": False,
        "description": description,
        "schema": {"type": "string"},
    }


CONDITIONS: dict[str, Any] = {
    "parameters": [
        header_parameter("If-Match", "Entity tag, or several, of what is there now; `*` for any"),
        header_parameter("If-None-Match", "`*`: only if there is nothing yet"),
    ]
}
"""`openapi_extra` of a route that changes something."""


@dataclass(frozen=True)
class EntityTags:
    """A list of entity tags, or `*`."""

    everything: bool
    strong: frozenset[str]
    weak: frozenset[str]

    def match(self, state: int | str, *, weakly: bool = False) -> bool:
        """Say whether the tag of a state is among them; a weak one counts only `weakly`."""
        found = self.strong | self.weak if weakly else self.strong
        return self.everything or str(state) in found


def etag(state: int | str) -> str:
    """Return the entity tag of a state: the number of a move, or a digest."""
    return f'"{state}"'


def entity_tags(headers: Headers, name: str) -> EntityTags | None:
    """Return the value of a header, None if there is no such header.

    Raises:
        ProblemError: 400, it is neither `*` nor a list of tags in quotes.
    """
    lines = headers.getlist(name)
    if not lines:
        return None
    value = ", ".join(lines).strip()
    if value == "*":
        return EntityTags(everything=True, strong=frozenset(), weak=frozenset())
    if not _TAGS.fullmatch(value):
        shown = value[:_SHOWN_CHARACTERS]
        detail = f'{name}: {shown!r} is neither * nor entity tags in quotes, such as "7"'
        raise _malformed(name, detail)
    found = _TAG.findall(value)
    return EntityTags(
        everything=False,
        strong=frozenset(tag for weak, tag in found if not weak),
        weak=frozenset(tag for weak, tag in found if weak),
    )


@dataclass(frozen=True)
class WriteCondition:
    """What a request expects of what it changes; an `Expected` of either kind.

    Attributes:
        if_match: It must exist, in one of these states.
        must_be_new: It must not exist.
    """

    if_match: EntityTags | None
    must_be_new: bool

    def __call__(self, current: int | str | None) -> bool:
        """Say whether it is as expected, in this state or not there at all."""
        if current is None:
            return self.if_match is None
        return not self.must_be_new and self.if_match is not None and self.if_match.match(current)

    @property
    def field(self) -> str:
        """The header that decides."""
        return "If-None-Match" if self.if_match is None else "If-Match"


def write_condition(headers: Headers) -> WriteCondition:
    """Return the condition that a request sets for changing an alias.

    Raises:
        ProblemError: 428, it sets none; 400, as `optional_condition`.
    """
    condition = optional_condition(headers)
    if condition is None:
        raise problem_error(
            428,
            "precondition-required",
            "The request must say what it replaces",
            "send If-None-Match: * to create the alias, or If-Match with the ETag that it was "
            "read with to move or delete it; If-Match: * replaces whatever is there",
            field="If-Match",
        )
    return condition


def optional_condition(headers: Headers) -> WriteCondition | None:
    """Return the condition that a request sets for a change, None if it sets none.

    Raises:
        ProblemError: 400, a header is malformed or `If-None-Match` is not `*`.
    """
    if_match = entity_tags(headers, "If-Match")
    if_none_match = entity_tags(headers, "If-None-Match")
    if if_match is None and if_none_match is None:
        return None
    if if_none_match is not None and not if_none_match.everything:
        raise _malformed(
            "If-None-Match", "If-None-Match takes only * here; If-Match names what to replace"
        )
    return WriteCondition(if_match, must_be_new=if_none_match is not None)


def lost(error: PreconditionFailedError, condition: WriteCondition) -> ProblemError:
    """Return 412 for a condition that was not met; its `ETag` tells how things stand."""
    return ProblemError(
        Problem(
            412,
            "precondition-failed",
            PRECONDITION_FAILED,
            f"{error}; nothing was changed",
            {"field": condition.field},
            {} if error.current is None else {"ETag": etag(error.current)},
        )
    )


def _malformed(field: str, detail: str) -> ProblemError:
    return problem_error(
        400, "malformed-precondition", "A precondition is malformed", detail, field=field
    )
