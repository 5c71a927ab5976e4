"""Progress of a fit as server-sent events."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Request
from fastapi.sse import EventSourceResponse, ServerSentEvent

from jobs.records import FitId, Progress
from service.drain import Drain
from service.params import NamePath, VersionQuery
from service.parts import PartsDep
from service.routes.ensembles import DeskDep, notice_end

router = APIRouter(prefix="/v1/ensembles", tags=["ensembles"])


async def existing_fit(name: NamePath, desk: DeskDep, version: VersionQuery = None) -> FitId:
    """Return the fit to follow, the newest by default, while 404 can still be answered."""
    fit_id = await desk.newest(name) if version is None else FitId(name, version)
    await desk.record(fit_id)
    return fit_id


FitIdDep = Annotated[FitId, Depends(existing_fit)]


@router.get("/{name}/events", response_class=EventSourceResponse)  # noqa: FAST003 - in FitIdDep
async def follow_events(
    fit_id: FitIdDep,
    request: Request,
    desk: DeskDep,
    parts: PartsDep,
    last_event_id: Annotated[
        str | None, Header(description="Only what came after this event")
    ] = None,
) -> AsyncIterator[ServerSentEvent]:
    """Every event from the first that is kept, or after `Last-Event-ID`, up to the outcome."""
    async with aclosing(desk.events(fit_id, last_event_id)) as events:
        async for progress in until_drained(events, parts.drain):
            if progress.event == "outcome":
                notice_end(request, fit_id.name)
            data = progress.model_dump(mode="json", exclude={"id"}, exclude_none=True)
            yield ServerSentEvent(data=data, event=progress.event, id=progress.id)


async def until_drained(events: AsyncGenerator[Progress], drain: Drain) -> AsyncGenerator[Progress]:
    """Pass events on, ending early when the process is about to stop; clients then reconnect."""
    leaving = asyncio.create_task(drain.begun.wait())
    try:
        while True:
            coming = asyncio.ensure_future(anext(events, None))
            await asyncio.wait({coming, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not coming.done():
                coming.cancel()
                await asyncio.gather(coming, return_exceptions=True)
                return
            progress = coming.result()
            if progress is None:
                return
            yield progress
    finally:
        leaving.cancel()
