"""Leaving without losing a request.

On SIGTERM the process first says that it is leaving (`/readyz` fails, every response closes its
connection) while it still answers, so that clients and load balancers go elsewhere of their own
accord. Then the listening socket closes and running requests finish. A connection that the kernel
had accepted by then is taken over, not reset, and one that has not spoken yet gets its turn.
"""

import asyncio
import os
import socket
import time
from collections.abc import Callable
from types import FrameType

import uvicorn
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


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


FIRST_REQUEST_S = 1.0
"""After the listening socket has closed: how long a new connection may take to begin a request."""

POLL_S = 0.01


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

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening, hear out whoever has connected, and let running requests finish."""
        if not sockets:  # else others may go on listening on them
            for connection in self._stop_listening():
                await asyncio.get_running_loop().connect_accepted_socket(self._protocol, connection)
        patience_ends_s = time.monotonic() + FIRST_REQUEST_S
        while self._has_silent_connection() and time.monotonic() < patience_ends_s:  # noqa: ASYNC110
            await asyncio.sleep(POLL_S)  # uvicorn tells nobody when it begins
        await super().shutdown(sockets)

    def _stop_listening(self) -> list[socket.socket]:
        """Close the listening sockets; return the connections that waited to be accepted.

        Closing a socket resets those, although their clients believe to be connected.
        """
        listening = [
            socket.socket(fileno=os.dup(each.fileno()))
            for server in self.servers
            for each in server.sockets
        ]
        for server in self.servers:
            server.close()
        waiting: list[socket.socket] = []
        for each in listening:
            with each:
                each.setblocking(False)
                while (connection := _accept(each)) is not None:
                    waiting.append(connection)
        return waiting

    def _protocol(self) -> asyncio.Protocol:
        return HttpToolsProtocol(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )

    def _has_silent_connection(self) -> bool:
        """Whether a connection has not begun its first request."""
        return any(
            getattr(each, "cycle", None) is None  # uvicorn sets it when a request begins
            for each in self.server_state.connections
        )


def _accept(listening: socket.socket) -> socket.socket | None:
    try:
        return listening.accept()[0]
    except BlockingIOError:
        return None


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
