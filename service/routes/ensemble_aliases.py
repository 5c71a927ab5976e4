"""Aliases of ensembles: movable names for versions that have succeeded."""

from typing import cast

from fastapi import Request, Response

from jobs.errors import FitNotFoundError
from jobs.records import FitId
from service.inference.classifier import Classifier
from service.parts import Parts, PartsDep
from service.problems import ProblemError, problem_error
from service.registry.aliases import WRITTEN, AliasPath, AliasTarget, AliasView
from service.registry.params import NamePath
from service.registry.preconditions import CONDITIONS
from service.routes.aliases import ALIAS, Aliased, alias_router, put


def _check_version(parts: Parts, name: str, version: int) -> None:
    fit_id = FitId(name, version)
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


def _moved(request: Request, name: str, alias: str) -> None:
    """Let a classifier of this process serve what its caller has just been told about."""
    classifier = cast("Classifier | None", getattr(request.app.state, "classifier", None))
    if classifier is not None:
        classifier.resolver.forget(name, alias)


_ENSEMBLES = Aliased(
    plural="ensembles",
    one="an ensemble",
    book=lambda parts: parts.ensembles.aliases,
    check_name=lambda parts, name: parts.ensembles.newest(name),
    check_version=_check_version,
    moved=_moved,
)
router = alias_router(_ENSEMBLES)


@router.put(ALIAS, response_model=AliasView, responses=WRITTEN, openapi_extra=CONDITIONS)
async def put_alias(
    name: NamePath, alias: AliasPath, target: AliasTarget, request: Request, parts: PartsDep
) -> Response:
    """Point an alias at a version, or split its requests between several.

    `If-None-Match: *` creates it, `If-Match` moves it; of several writers who expect the same, one
    succeeds and the others get 412. Only versions that have succeeded can be pointed at.
    """
    return await put(_ENSEMBLES, request, parts, name, alias, target)
