"""Stopping work whose client has gone away."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

T = TypeVar("T")


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Run `work`, cancelling it when the client hangs up.

    Args:
        request: Its body has been read to the end.
        work: What to do for it; it runs in the caller's task, which saves one a request.

    Raises:
        ClientDisconnect: The client hung up first.
    """
    working = asyncio.current_task()
    if working is None:
        raise AssertionError("there is no task to cancel")
    leaving = asyncio.create_task(_disconnected(request))
    cancel = _Cancel(working)
    leaving.add_done_callback(cancel)
    try:
        return await work
    except asyncio.CancelledError:
        if cancel.asked and working.cancelling() == 1:
            raise ClientDisconnect from None
        raise  # somebody else cancelled it
    finally:
        leaving.remove_done_callback(cancel)
        leaving.cancel()
        if cancel.asked:
            working.uncancel()


class _Cancel:
    """Cancels a task when another one ends of its own accord."""

    def __init__(self, task: asyncio.Task[Any]) -> None:
        self._task = task
        self.asked = False

    def __call__(self, ended: asyncio.Task[None]) -> None:
        if not ended.cancelled():
            ended.exception()  # is taken note of: whatever it is, the client is out of reach
            self.asked = True
            self._task.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
