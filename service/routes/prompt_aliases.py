"""Aliases of prompts: movable names for one version each, to be named as sources of fits."""

from fastapi import APIRouter, Request, Response

from prompt_store.errors import NotFoundError
from prompt_store.manifests import Page
from prompt_store.splits import Split
from service.aliases import (
    READ,
    WRITTEN,
    AliasPath,
    AliasView,
    MoveCursor,
    PromptAliasTarget,
    delete_alias,
    page_of,
    read_alias,
    write_alias,
)
from service.bounded_route import BoundedRoute
from service.params import CursorQuery, LimitQuery, NamePath
from service.parts import Parts, PartsDep
from service.preconditions import CONDITIONS, write_condition
from service.problems import problem_error

router = APIRouter(prefix="/v1/prompts", tags=["prompts"], route_class=BoundedRoute)


@router.get("/{name}/aliases")
def list_aliases(
    name: NamePath, parts: PartsDep, limit: LimitQuery = 100, cursor: CursorQuery = None
) -> Page[AliasView]:
    """The aliases of a prompt, in order."""
    parts.prompts.get(name)  # raises if there is no such prompt
    return page_of(parts.prompts.aliases.page(name, cursor, limit))


@router.get("/{name}/aliases/{alias}", response_model=AliasView, responses=READ)
def get_alias(name: NamePath, alias: AliasPath, request: Request, parts: PartsDep) -> Response:
    """Where an alias points now."""
    return read_alias(parts.prompts.aliases, name, alias, request.headers)


@router.get("/{name}/aliases/{alias}/history")
def get_history(
    name: NamePath,
    alias: AliasPath,
    parts: PartsDep,
    limit: LimitQuery = 100,
    cursor: MoveCursor = None,
) -> Page[AliasView]:
    """Every move of an alias, the latest first; also of one that was deleted."""
    return page_of(parts.prompts.aliases.history(name, alias, cursor, limit))


@router.put(
    "/{name}/aliases/{alias}",
    response_model=AliasView,
    responses=WRITTEN,
    openapi_extra=CONDITIONS,
)
def put_alias(
    name: NamePath,
    alias: AliasPath,
    target: PromptAliasTarget,
    request: Request,
    parts: PartsDep,
) -> Response:
    """Point an alias at a version; `If-None-Match: *` creates it, `If-Match` moves it."""
    condition = write_condition(request.headers)
    parts.prompts.get(name)  # raises if there is no such prompt
    _check_version(parts, name, target.version)
    book, split = parts.prompts.aliases, Split.only(target.version)
    return write_alias(book, name, alias, split, condition, request.url.path)


@router.delete("/{name}/aliases/{alias}", status_code=204, openapi_extra=CONDITIONS)
def remove_alias(name: NamePath, alias: AliasPath, request: Request, parts: PartsDep) -> None:
    """Delete an alias, with `If-Match`; its history stays, and its moves are counted on."""
    delete_alias(parts.prompts.aliases, name, alias, write_condition(request.headers))


def _check_version(parts: Parts, name: str, version: int) -> None:
    try:
        parts.prompts.get(name, version)
    except NotFoundError as error:
        raise problem_error(
            422, "unknown-version", "There is no such version", str(error), field="version"
        ) from error
