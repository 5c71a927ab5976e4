import asyncio

import pytest
from prometheus_client import CollectorRegistry
from starlette.types import Message, Receive, Scope, Send

from service.http_server.drain import Drain
from service.metrics.requests import UNMATCHED, MeasureRequests, RequestMetrics

pytestmark = pytest.mark.anyio


async def receive() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


async def drop(message: Message) -> None:
    pass


@pytest.mark.parametrize(
    ("media_type", "in_flight", "timed"),
    [("text/event-stream; charset=utf-8", 0, None), ("application/json", 1, 1)],
)
async def test_a_stream_of_events_is_counted_but_neither_in_flight_nor_timed(
    media_type: str, in_flight: int, timed: int | None
) -> None:
    begun, ends = asyncio.Event(), asyncio.Event()

    async def answer(_scope: Scope, _receive: Receive, send: Send) -> None:
        head = {"status": 200, "headers": [(b"content-type", media_type.encode())]}
        await send({"type": "http.response.start", **head})
        begun.set()
        await ends.wait()
        await send({"type": "http.response.body", "body": b""})

    registry = CollectorRegistry()
    app = MeasureRequests(answer, RequestMetrics(registry, Drain(1.0)))
    scope = {"type": "http", "method": "GET", "path": "/last", "headers": []}
    asking = asyncio.create_task(app(scope, receive, drop))
    await begun.wait()
    assert registry.get_sample_value("hgprompt_requests_in_flight") == in_flight
    ends.set()
    await asking
    assert registry.get_sample_value("hgprompt_requests_in_flight") == 0
    counted = {"method": "GET", "route": UNMATCHED, "status": "200"}
    assert registry.get_sample_value("hgprompt_requests_total", counted) == 1
    route = {"route": UNMATCHED}
    assert registry.get_sample_value("hgprompt_request_seconds_count", route) == timed
