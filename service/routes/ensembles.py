"""Fits: ask for one, read it, list, cancel."""

import asyncio
from typing import Annotated, cast

from fastapi import APIRouter, Depends, Request, Response

from jobs.desk import FitDesk, RecordPage
from jobs.records import FitId, LeftOutSource
from prompt_store.idempotency import Claim, IdempotencyStore
from service.bounded_route import BoundedRoute
from service.inference.classifier import Classifier
from service.parts import PartsDep
from service.registry.fits import EnsembleCreate, resolve_fit
from service.registry.idempotency import IdempotencyKey, answered_once
from service.registry.params import (
    CursorQuery,
    LimitQuery,
    NamePath,
    NumberCursorQuery,
    VersionPath,
    VersionQuery,
)
from service.registry.preconditions import CONDITIONS
from service.registry.uploads import as_expected
from service.registry.views import EnsemblePage, EnsembleView

router = APIRouter(prefix="/v1/ensembles", tags=["ensembles"], route_class=BoundedRoute)


def desk_of(request: Request) -> FitDesk:
    """Return the application's desk."""
    return cast("FitDesk", request.app.state.desk)


def notice_end(request: Request, name: str) -> None:
    """Let a classifier of this process serve what its caller has just been told about."""
    classifier = _classifier(request)
    if classifier is not None:
        classifier.resolver.forget(name)


def _classifier(request: Request) -> Classifier | None:
    return cast("Classifier | None", getattr(request.app.state, "classifier", None))


def _shown(page: RecordPage) -> EnsemblePage:
    items = [EnsembleView.of_record(record) for record in page.records]
    return EnsemblePage(items=items, next_cursor=page.next_cursor)


DeskDep = Annotated[FitDesk, Depends(desk_of)]


class FitView(EnsembleView):
    """One version of one ensemble, as it is shown by itself.

    Attributes:
        left_out: Prompts of this backbone that can be read and that `sources: "all"` did not take,
            and why.
    """

    left_out: tuple[LeftOutSource, ...] = ()


@router.post("", status_code=202, response_model=FitView)
async def create_ensemble(
    wanted: EnsembleCreate,
    request: Request,
    parts: PartsDep,
    desk: DeskDep,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Ask for a fit; it is durable once this is answered, and will end."""

    async def submit(claim: Claim | None) -> Response:
        digest = None if claim is None else claim.key_digest
        fit = None
        if claim is not None and claim.is_retry:
            fit = await asyncio.to_thread(desk.store.request_with, wanted.name, claim.key_digest)
        if fit is None:
            spec = await asyncio.to_thread(resolve_fit, parts, wanted)
            fit = await desk.submit(spec, digest)
        return Response(
            FitView.of_request(fit).model_dump_json(),
            status_code=202,
            headers={"Location": f"/v1/ensembles/{fit.name}?version={fit.version}"},
            media_type="application/json",
        )

    answers = cast("IdempotencyStore", request.app.state.idempotency)
    return await answered_once(request, idempotency_key, answers, submit)


@router.get("")
async def list_ensembles(
    desk: DeskDep, limit: LimitQuery = 100, cursor: CursorQuery = None
) -> EnsemblePage:
    """Each ensemble as its bare name means it, in order of names."""
    return _shown(await desk.page(start_after=cursor, limit=limit))


@router.get("/{name}")
async def get_ensemble(
    name: NamePath, request: Request, desk: DeskDep, version: VersionQuery = None
) -> FitView:
    """One version; without `version` the newest that succeeded, else the newest."""
    fit_id = await desk.current(name) if version is None else FitId(name, version)
    record = await desk.record(fit_id, with_result=True)
    if record.outcome is not None:
        notice_end(request, name)
    return FitView.of_record(record)


@router.get("/{name}/versions")
async def list_versions(
    name: NamePath, desk: DeskDep, limit: LimitQuery = 100, cursor: NumberCursorQuery = None
) -> EnsemblePage:
    """Every version of an ensemble with its status, oldest first."""
    return _shown(await desk.versions(name, after=cursor or 0, limit=limit))


@router.get("/{name}/versions/{version}")
async def get_version(
    name: NamePath, version: VersionPath, request: Request, desk: DeskDep
) -> FitView:
    """The same as `GET /v1/ensembles/{name}?version=`."""
    return await get_ensemble(name, request, desk, version)


@router.delete("/{name}", status_code=204, openapi_extra=CONDITIONS)
async def delete_ensemble(name: NamePath, request: Request, parts: PartsDep) -> None:
    """Delete every version of an ensemble, and its aliases; later fits continue the numbering.

    409 while a fit is queued or running: cancel it first. `If-Match` takes the `ETag` of the
    content that the bare name stands for.
    """

    def delete() -> None:
        with as_expected(request.headers) as expected:
            parts.ensembles.delete(name, expected)

    await asyncio.to_thread(delete)
    classifier = _classifier(request)
    if classifier is not None:
        classifier.resolver.forget_deleted(name)


@router.post("/{name}/cancel", status_code=202)
async def cancel_ensemble(name: NamePath, desk: DeskDep, version: VersionQuery = None) -> FitView:
    """End a queued or running fit; without `version` the newest. 409 once it has ended."""
    fit_id = await desk.newest(name) if version is None else FitId(name, version)
    await desk.cancel(fit_id)
    return FitView.of_record(await desk.record(fit_id))
