"""What the aliases of ensembles and of prompts have in common over HTTP."""

from datetime import datetime
from typing import Annotated, Any, Self

from fastapi import Path
from pydantic import BaseModel, ConfigDict, Field, model_validator
from starlette.datastructures import Headers
from starlette.responses import Response

from prompt_store.aliases import AliasBook, Move
from prompt_store.errors import PreconditionFailedError
from prompt_store.manifests import Page
from prompt_store.names import NAME_PATTERN
from prompt_store.splits import MAX_VERSIONS, Share, Split, Version
from service.registry.preconditions import (
    WriteCondition,
    entity_tags,
    etag,
    header_parameter,
    lost,
)

AliasPath = Annotated[
    str, Path(pattern=f"^{NAME_PATTERN}$", description="Lower-case name, not only digits")
]

_ETAG = {"ETag": {"schema": {"type": "string"}, "description": "The number of the last move"}}
READ: dict[int | str, dict[str, Any]] = {
    200: {"description": "Where the alias points", "headers": _ETAG},
    304: {"description": "The alias is still as `If-None-Match` says"},
}
"""`responses` of a route that reads an alias."""

IF_CHANGED: dict[str, Any] = {
    "parameters": [header_parameter("If-None-Match", "304 if the alias still has this `ETag`")]
}
"""Its `openapi_extra`."""


class AliasTarget(BaseModel):
    """Where to point an alias of an ensemble: `version`, or `versions` with weights."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"version": 3},
                {"versions": [{"version": 2, "weight": 0.9}, {"version": 3, "weight": 0.1}]},
            ]
        },
    )

    version: Version | None = None
    versions: list[Share] | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_VERSIONS,
        description="Distinct versions; the weights are probabilities and sum to 1",
    )

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if (self.version is None) == (self.versions is None):
            raise ValueError("exactly one of version and versions is needed")
        return self

    @property
    def split(self) -> Split:
        """The same in one form. Raises `InvalidSplitError`."""
        return Split.only(self.version) if self.version else Split.of(self.versions or [])


class PromptAliasTarget(BaseModel):
    """Where to point an alias of a prompt."""

    model_config = ConfigDict(extra="forbid")

    version: Version

    @property
    def split(self) -> Split:
        """The same in the form of `AliasTarget`'s."""
        return Split.only(self.version)


class AliasView(BaseModel):
    """An alias after one of its moves.

    Attributes:
        version: The version it points at, None if there are several or it was deleted.
        versions: The same with weights, ascending; empty after a deletion.
        move: Number of the move, and of the entity tag.
    """

    name: str
    alias: str
    version: int | None
    versions: tuple[Share, ...]
    move: int
    moved_at: datetime

    @classmethod
    def of(cls, move: Move) -> Self:
        """Show a move."""
        return cls(
            name=move.name,
            alias=move.alias,
            version=move.split.version if move.split else None,
            versions=move.split.shares if move.split else (),
            move=move.number,
            moved_at=move.moved_at,
        )


WRITTEN: dict[int | str, dict[str, Any]] = {
    200: {"description": "Moved, or left where it was already", "headers": _ETAG},
    201: {"model": AliasView, "description": "Created", "headers": _ETAG},
}
"""`responses` of a route that writes one."""


def page_of(page: Page[Move]) -> Page[AliasView]:
    """Show a page of moves."""
    return Page(
        items=tuple(AliasView.of(move) for move in page.items), next_cursor=page.next_cursor
    )


def read_alias(book: AliasBook, name: str, alias: str, headers: Headers) -> Response:
    """Answer GET; 304 if `If-None-Match` names the alias as it is.

    Raises:
        NotFoundError: There is no such alias.
        ProblemError: 400, the header is malformed.
    """
    known = entity_tags(headers, "If-None-Match")
    move = book.current(name, alias)
    if known is not None and known.match(move.number, weakly=True):
        return Response(status_code=304, headers=_headers(move))
    return _answer(move, 200)


def write_alias(
    book: AliasBook, name: str, alias: str, split: Split, condition: WriteCondition, path: str
) -> Response:
    """Answer PUT, for versions that exist.

    Args:
        book: Whose alias.
        name: Whose alias.
        alias: The alias.
        split: Where to point it.
        condition: The request's.
        path: The alias's own.

    Raises:
        ProblemError: 412, the alias does not stand as expected; tells how it stands.
    """
    try:
        move, created = book.move(name, alias, split, condition)
    except PreconditionFailedError as error:
        raise lost(error, condition) from error
    return _answer(move, 201, Location=path) if created else _answer(move, 200)


def delete_alias(book: AliasBook, name: str, alias: str, condition: WriteCondition) -> None:
    """Do what DELETE asks for.

    Raises:
        NotFoundError: There is no such alias.
        ProblemError: As `write_alias`.
    """
    try:
        book.delete(name, alias, condition)
    except PreconditionFailedError as error:
        raise lost(error, condition) from error


def _answer(move: Move, status: int, **headers: str) -> Response:
    return Response(
        AliasView.of(move).model_dump_json(),
        status_code=status,
        headers={**_headers(move), **headers},
        media_type="application/json",
    )


def _headers(move: Move) -> dict[str, str]:
    return {"ETag": etag(move.number), "Cache-Control": "no-cache"}
