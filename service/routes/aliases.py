"""The routes that aliases of ensembles and of prompts have in common: all but the body of PUT."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from fastapi import APIRouter, Request, Response

from prompt_store.aliases import AliasBook
from prompt_store.manifests import Page
from service.bounded_route import BoundedRoute
from service.parts import Parts, PartsDep
from service.registry.aliases import (
    IF_CHANGED,
    READ,
    AliasPath,
    AliasTarget,
    AliasView,
    PromptAliasTarget,
    delete_alias,
    page_of,
    read_alias,
    write_alias,
)
from service.registry.params import CursorQuery, LimitQuery, NamePath, NumberCursorQuery
from service.registry.preconditions import CONDITIONS, write_condition

ALIAS = "/{name}/aliases/{alias}"


@dataclass(frozen=True)
class Aliased:
    """Something that has aliases.

    Attributes:
        plural: Its folder below `/v1`, and its tag.
        one: It in a sentence, such as "a prompt".
        book: Its aliases.
        check_name: Raises `NotFoundError` if there is none of that name.
        check_version: Raises `ProblemError` if an alias cannot point at that version of a name.
        moved: Called on the event loop with the name and the alias, after it was moved or deleted.
    """

    plural: str
    one: str
    book: Callable[[Parts], AliasBook]
    check_name: Callable[[Parts, str], object]
    check_version: Callable[[Parts, str, int], None]
    moved: Callable[[Request, str, str], None] = lambda _request, _name, _alias: None


def alias_router(kind: Aliased) -> APIRouter:
    """Make the routes that read and delete aliases; PUT, by `put`, is for the caller to add."""
    router = APIRouter(prefix=f"/v1/{kind.plural}", tags=[kind.plural], route_class=BoundedRoute)

    @router.get("/{name}/aliases", description=f"The aliases of {kind.one}, in order.")
    def list_aliases(
        name: NamePath, parts: PartsDep, limit: LimitQuery = 100, cursor: CursorQuery = None
    ) -> Page[AliasView]:
        kind.check_name(parts, name)
        return page_of(kind.book(parts).page(name, cursor, limit))

    @router.get(ALIAS, response_model=AliasView, responses=READ, openapi_extra=IF_CHANGED)
    def get_alias(name: NamePath, alias: AliasPath, request: Request, parts: PartsDep) -> Response:
        """Where an alias points now."""
        return read_alias(kind.book(parts), name, alias, request.headers)

    @router.get(f"{ALIAS}/history")
    def get_history(
        name: NamePath,
        alias: AliasPath,
        parts: PartsDep,
        limit: LimitQuery = 100,
        cursor: NumberCursorQuery = None,
    ) -> Page[AliasView]:
        """Every move of an alias, the latest first; also of one that was deleted."""
        return page_of(kind.book(parts).history(name, alias, cursor, limit))

    @router.delete(ALIAS, status_code=204, openapi_extra=CONDITIONS)
    async def remove_alias(
        name: NamePath, alias: AliasPath, request: Request, parts: PartsDep
    ) -> None:
        """Delete an alias, with `If-Match`; its history stays, and its moves are counted on."""
        condition = write_condition(request.headers)
        await asyncio.to_thread(delete_alias, kind.book(parts), name, alias, condition)
        kind.moved(request, name, alias)

    return router


async def put(
    kind: Aliased,
    request: Request,
    parts: Parts,
    name: str,
    alias: str,
    target: AliasTarget | PromptAliasTarget,
) -> Response:
    """Answer PUT: point an alias at what `target` says.

    Raises:
        NotFoundError: There is none of that name.
        InvalidSplitError: The weights of the target are no split.
        ProblemError: As `write_condition`, `Aliased.check_version` and `write_alias`.
    """
    condition = write_condition(request.headers)
    split = target.split

    def write() -> Response:
        kind.check_name(parts, name)
        for version in split.weights:
            kind.check_version(parts, name, version)
        return write_alias(kind.book(parts), name, alias, split, condition, request.url.path)

    response = await asyncio.to_thread(write)
    kind.moved(request, name, alias)
    return response
