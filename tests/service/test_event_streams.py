import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from jobs.progress import Progress
from service.http_server.drain import Drain
from service.routes.ensemble_events import until_drained

pytestmark = pytest.mark.anyio


async def listen(events: AsyncGenerator[Progress], drain: Drain) -> None:
    async with aclosing(events):
        async for _ in until_drained(events, drain):
            pass


@pytest.mark.parametrize("leaves", ["client", "process"])
async def test_nothing_goes_on_after_the_listener_or_the_process_has_left(leaves: str) -> None:
    looks: list[str] = []

    async def quiet() -> AsyncGenerator[Progress]:
        try:
            while True:
                looks.append("look")
                await asyncio.sleep(0.01)
        finally:
            looks.append("closed")
        yield Progress(status="queued")

    drain, before = Drain(1.0), asyncio.all_tasks()
    listening = asyncio.create_task(listen(quiet(), drain))
    while len(looks) < 3:  # noqa: ASYNC110 - it is the stream that looks
        await asyncio.sleep(0.01)
    if leaves == "client":
        listening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await listening
    else:
        drain.begun.set()
        await listening
    assert looks[-1] == "closed"
    assert asyncio.all_tasks() == before
