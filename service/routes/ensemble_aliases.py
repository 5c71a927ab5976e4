"""Aliases of ensembles: movable names for versions that have succeeded."""

import asyncio
from typing import cast

from fastapi import APIRouter, Request, Response

from jobs.errors import FitNotFoundError
from jobs.records import FitId
from prompt_store.manifests import Page
from prompt_store.splits import Split
from service.aliases import (
    READ,
    WRITTEN,
    AliasPath,
    AliasTarget,
    AliasView,
    MoveCursor,
    delete_alias,
    page_of,
    read_alias,
    write_alias,
)
from service.bounded_route import BoundedRoute
from service.inference.classifier import Classifier
from service.params import CursorQuery, LimitQuery, NamePath
from service.parts import Parts, PartsDep
from service.preconditions import CONDITIONS, write_condition
from service.problems import ProblemError, problem_error

router = APIRouter(prefix="/v1/ensembles", tags=["ensembles"], route_class=BoundedRoute)


@router.get("/{name}/aliases")
def list_aliases(
    name: NamePath, parts: PartsDep, limit: LimitQuery = 100, cursor: CursorQuery = None
) -> Page[AliasView]:
    """The aliases of an ensemble, in order."""
    parts.ensembles.newest(name)  # raises if there is no such ensemble
    return page_of(parts.ensembles.aliases.page(name, cursor, limit))


@router.get("/{name}/aliases/{alias}", response_model=AliasView, responses=READ)
def get_alias(name: NamePath, alias: AliasPath, request: Request, parts: PartsDep) -> Response:
    """Where an alias points now."""
    return read_alias(parts.ensembles.aliases, name, alias, request.headers)


@router.get("/{name}/aliases/{alias}/history")
def get_history(
    name: NamePath,
    alias: AliasPath,
    parts: PartsDep,
    limit: LimitQuery = 100,
    cursor: MoveCursor = None,
) -> Page[AliasView]:
    """Every move of an alias, the latest first; also of one that was deleted."""
    return page_of(parts.ensembles.aliases.history(name, alias, cursor, limit))


@router.put(
    "/{name}/aliases/{alias}",
    response_model=AliasView,
    responses=WRITTEN,
    openapi_extra=CONDITIONS,
)
async def put_alias(
    name: NamePath, alias: AliasPath, target: AliasTarget, request: Request, parts: PartsDep
) -> Response:
    """Point an alias at a version, or split its requests between several.

    `If-None-Match: *` creates it, `If-Match` moves it; of several writers who expect the same, one
    succeeds and the others get 412. Only versions that have succeeded can be pointed at.
    """
    condition = write_condition(request.headers)
    split = target.split
    book = parts.ensembles.aliases
    await asyncio.to_thread(_check_versions, parts, name, split)
    response = await asyncio.to_thread(
        write_alias, book, name, alias, split, condition, request.url.path
    )
    _notice_move(request, name, alias)
    return response


@router.delete("/{name}/aliases/{alias}", status_code=204, openapi_extra=CONDITIONS)
async def remove_alias(name: NamePath, alias: AliasPath, request: Request, parts: PartsDep) -> None:
    """Delete an alias, with `If-Match`; its history stays, and its moves are counted on."""
    condition = write_condition(request.headers)
    await asyncio.to_thread(delete_alias, parts.ensembles.aliases, name, alias, condition)
    _notice_move(request, name, alias)


def _check_versions(parts: Parts, name: str, split: Split) -> None:
    parts.ensembles.newest(name)  # raises if there is no such ensemble
    for version in split.weights:
        _check_version(parts, FitId(name, version))


def _check_version(parts: Parts, fit_id: FitId) -> None:
    try:
        status = parts.ensembles.record(fit_id).status
    except FitNotFoundError as error:
        raise _unusable(422, "unknown-version", "There is no such version", str(error)) from error
    if status != "succeeded":
        raise _unusable(
            409,
            "ensemble-not-ready",
            "The ensemble has no finished version to serve",
            f"ensemble {fit_id} is {status}; an alias can point only at versions that succeeded",
        )


def _unusable(status: int, slug: str, title: str, detail: str) -> ProblemError:
    return problem_error(status, slug, title, detail, field="version")


def _notice_move(request: Request, name: str, alias: str) -> None:
    """Let a classifier of this process serve what its caller has just been told about."""
    classifier = cast("Classifier | None", getattr(request.app.state, "classifier", None))
    if classifier is not None:
        classifier.resolver.forget(name, alias)
