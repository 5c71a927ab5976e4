"""Leaving without losing a request.

On SIGTERM the process first says that it is leaving (`/readyz` fails, every response closes its
connection) while it still answers, so that clients and load balancers go elsewhere of their own
accord. Then the listening socket closes and running requests finish.
"""

import asyncio
import time
from collections.abc import Callable
from types import FrameType

import uvicorn
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Drain:
    """Whether this process is leaving, and since when.

    Args:
        drain_s: How long to go on answering new requests.
        clock: Monotonic seconds.
    """

    def __init__(self, drain_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._drain_s = drain_s
        self._clock = clock
        self._until_s: float | None = None
        self.begun = asyncio.Event()

    def begin(self) -> None:
        """Start leaving; further calls change nothing."""
        if self._until_s is None:
            self._until_s = self._clock() + self._drain_s
            self.begun.set()

    @property
    def over(self) -> bool:
        """Whether the time for new requests has passed."""
        return self._until_s is not None and self._clock() >= self._until_s


class DrainingServer(uvicorn.Server):
    """A uvicorn server that drains on the first SIGTERM or SIGINT and stops on the second."""

    def __init__(self, config: uvicorn.Config, drain: Drain) -> None:
        super().__init__(config)
        self._drain = drain

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Begin to drain; a second signal cuts it short. The process then exits with status 0."""
        if self._drain.begun.is_set():
            self.should_exit = True
        self._drain.begin()

    async def on_tick(self, counter: int) -> bool:
        """Run ten times a second by uvicorn; True stops the server."""
        return await super().on_tick(counter) or self._drain.over


class CloseWhileDraining:
    """ASGI middleware: while the process is leaving, each response closes its connection."""

    def __init__(self, app: ASGIApp, drain: Drain) -> None:
        self._app = app
        self._drain = drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the call on, adding `Connection: close` to the response if need be."""

        async def closing_send(message: Message) -> None:
            if message["type"] == "http.response.start" and self._drain.begun.is_set():
                MutableHeaders(scope=message)["Connection"] = "close"
            await send(message)

        await self._app(scope, receive, closing_send)
