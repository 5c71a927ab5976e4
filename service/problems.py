"""Problem documents (RFC 9457): how every error of this service looks on the wire.

A `type` is a stable URN of ours. Members beyond those of the RFC: `field`, the name of the
offending value; `limit`, what it may be at most (or at least); `errors`, one entry per field
where several are wrong.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

TYPE_PREFIX = "urn:hgprompt:problem:"
MEDIA_TYPE = "application/problem+json"
PRECONDITION_FAILED = "A precondition was not met"
"""Title of `precondition-failed`, whatever the precondition is about."""


class FieldProblem(BaseModel):
    """What is wrong with one value of a request."""

    field: str
    detail: str
    limit: int | float | str | None = None


class ProblemDocument(BaseModel):
    """An error, as RFC 9457 describes it."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(examples=[f"{TYPE_PREFIX}not-found"])
    title: str
    status: int
    detail: str
    field: str | None = None
    limit: int | float | str | None = None
    errors: list[FieldProblem] | None = None


@dataclass(frozen=True)
class Problem:
    """A problem document before it is written.

    Attributes:
        status: HTTP status.
        slug: Last part of the type.
        title: Short summary, the same for every occurrence of the type.
        detail: This occurrence: the offending value and the limit.
        members: Further members, such as `field` and `limit`.
        headers: Headers that go with it.
    """

    status: int
    slug: str
    title: str
    detail: str
    members: Mapping[str, Any] = field(default_factory=dict[str, Any])
    headers: Mapping[str, str] = field(default_factory=dict[str, str])

    def document(self) -> dict[str, Any]:
        """Return the JSON object."""
        head = {
            "type": f"{TYPE_PREFIX}{self.slug}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
        }
        return {**head, **{key: value for key, value in self.members.items() if value is not None}}

    def response(self) -> Response:
        """Return the HTTP response; in ASCII, since what is quoted may be half a character."""
        return Response(
            json.dumps(self.document(), allow_nan=False),
            self.status,
            headers=dict(self.headers),
            media_type=MEDIA_TYPE,
        )


class ProblemError(Exception):
    """Raised by routes; answered with its problem."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem


def problem_error(
    status: int, slug: str, title: str, detail: str, **members: object
) -> ProblemError:
    """Return an exception to raise for a problem; `members` as in `Problem`."""
    return ProblemError(Problem(status, slug, title, detail, members))
