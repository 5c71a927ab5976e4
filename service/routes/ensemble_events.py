"""Progress of a fit as server-sent events (WHATWG HTML, section 9.2).

The id of an event is `<version>:<position>`. Whoever follows the newest version and reconnects
after a refit names an event of the version before; it says nothing about those of the new one.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Request, Response
from fastapi.routing import APIRoute
from fastapi.sse import EventSourceResponse, ServerSentEvent

from jobs.records import OUTCOME_EVENT_ID, FitId, Progress
from service.http_server.drain import Drain
from service.parts import PartsDep
from service.registry.params import NamePath, VersionQuery
from service.routes.ensembles import DeskDep, notice_end

LastEventId = Annotated[
    str | None, Header(alias="Last-Event-ID", description="Only what came after this event")
]
NOTHING_MORE: dict[int | str, dict[str, Any]] = {
    204: {"description": "`Last-Event-ID` is the outcome: nothing follows, do not reconnect"}
}


class NothingMoreError(Exception):
    """The caller has had the last event of a fit."""


class EventsRoute(APIRoute):
    """Answers 204 if nothing follows, so that an `EventSource` does not reconnect for ever."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap the route's handler, as FastAPI foresees."""
        handle = super().get_route_handler()

        async def followed(request: Request) -> Response:
            try:
                return await handle(request)
            except NothingMoreError:
                return Response(status_code=204)

        return followed


router = APIRouter(prefix="/v1/ensembles", tags=["ensembles"], route_class=EventsRoute)


async def existing_fit(
    name: NamePath,
    desk: DeskDep,
    version: VersionQuery = None,
    last_event_id: LastEventId = None,
) -> FitId:
    """Return the fit to follow, the newest by default, while 404 or 204 can still be answered.

    Raises:
        FitNotFoundError: There is no such fit.
        NothingMoreError: It has ended, and the caller knows.
    """
    fit_id = await desk.newest(name) if version is None else FitId(name, version)
    record = await desk.record(fit_id)
    if record.outcome is not None and position_in(fit_id, last_event_id) == OUTCOME_EVENT_ID:
        raise NothingMoreError
    return fit_id


def position_in(fit_id: FitId, last_event_id: str | None) -> str | None:
    """Return an event's position in the stream of a fit, None if it is an event of another one.

    A position without a version is taken for one of this fit.
    """
    version, _, position = (last_event_id or "").rpartition(":")
    return position if version in ("", str(fit_id.version)) else None


FitIdDep = Annotated[FitId, Depends(existing_fit)]


@router.get(
    "/{name}/events",  # noqa: FAST003 - in FitIdDep
    response_class=EventSourceResponse,
    responses=NOTHING_MORE,
)
async def follow_events(
    fit_id: FitIdDep,
    request: Request,
    desk: DeskDep,
    parts: PartsDep,
    last_event_id: LastEventId = None,
) -> AsyncIterator[ServerSentEvent]:
    """Every event from the first that is kept, or after `Last-Event-ID`, up to the outcome."""
    async with aclosing(desk.events(fit_id, position_in(fit_id, last_event_id))) as events:
        async for progress in until_drained(events, parts.drain):
            if progress.event == "outcome":
                notice_end(request, fit_id.name)
            data = progress.model_dump(mode="json", exclude={"id"}, exclude_none=True)
            wire_id = f"{fit_id.version}:{progress.id}"
            yield ServerSentEvent(data=data, event=progress.event, id=wire_id)


async def until_drained(events: AsyncGenerator[Progress], drain: Drain) -> AsyncGenerator[Progress]:
    """Pass events on, ending early when the process is about to stop; clients then reconnect."""
    leaving = asyncio.create_task(drain.begun.wait())
    try:
        while True:
            coming = asyncio.ensure_future(anext(events, None))
            try:
                await asyncio.wait({coming, leaving}, return_when=asyncio.FIRST_COMPLETED)
                if not coming.done():
                    return
                progress = coming.result()
            finally:  # whoever listened may be gone, and `events` is closed only when it rests
                coming.cancel()
                await asyncio.gather(coming, return_exceptions=True)
            if progress is None:
                return
            yield progress
    finally:
        leaving.cancel()
