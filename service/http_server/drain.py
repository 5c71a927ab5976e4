"""Leaving without losing a request.

On SIGTERM the process first says that it is leaving (`/readyz` fails, every response closes its
connection) while it still answers, so that clients and load balancers go elsewhere of their own
accord. Then the listening socket closes, after newcomers have been kept from it (`listeners`), and
running requests finish. A connection that the kernel had accepted by then is taken over, not reset,
and one that has not spoken yet gets its turn.
"""

import asyncio
import os
import signal
import socket
import time
from collections.abc import Callable
from types import FrameType
from typing import cast

import uvicorn

from service.http_server.last_resort import leave
from service.http_server.listeners import HANDSHAKE_S, accept_waiting, drop_newcomers
from service.http_server.shared_listener import SharedListener


class Drain:
    """Whether this process is leaving, and since when.

    Args:
        drain_s: How long to go on answering new requests.
    """

    def __init__(self, drain_s: float) -> None:
        self._drain_s = drain_s
        self._until_s: float | None = None
        self.begun = asyncio.Event()

    def begin(self) -> None:
        """Start leaving; further calls change nothing."""
        if self._until_s is None:
            self._until_s = time.monotonic() + self._drain_s
            self.begun.set()

    @property
    def over(self) -> bool:
        """Whether the time for new requests has passed."""
        return self._until_s is not None and time.monotonic() >= self._until_s


FIRST_REQUEST_S = 1.0
"""After the listening socket has closed: how long a new connection may take to begin a request."""

POLL_S = 0.01


class DrainingServer(uvicorn.Server):
    """A uvicorn server that drains on the first SIGTERM or SIGINT and stops on the second.

    While the application is being started, nobody waits for an answer, and what it waits for may
    never come: then the process ends at the first signal.

    Args:
        config: Of uvicorn.
        drain: Told when it begins to leave.
        is_supervised: Whether a second SIGTERM means no more than the first, because a supervisor
            sends one, and perhaps somebody else who tells every process. SIGINT stops it then.
        stopping: Called when no new request is taken any more.
        stopped: Called when every request has its answer and the application is shut down.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        drain: Drain,
        *,
        is_supervised: bool = False,
        stopping: Callable[[], None] = lambda: None,
        stopped: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(config)
        self._drain = drain
        self._is_supervised = is_supervised
        self._stopping = stopping
        self._stopped = stopped
        self._was_told = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application and listen; sockets that are given are shared with others."""
        if sockets is None:
            await super().startup()
            return
        await super().startup(sockets=[])
        for each in sockets:
            listener = SharedListener(each, self.config.backlog, self._protocol)
            self.servers.append(cast("asyncio.Server", listener))

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Begin to drain; a second signal cuts it short. The process then exits with status 0."""
        if not self.started:
            leave()
        if self._drain.begun.is_set() and (sig == signal.SIGINT or not self._is_supervised):
            self.should_exit = True
        self._was_told = True
        self._drain.begin()

    async def on_tick(self, counter: int) -> bool:
        """Run ten times a second by uvicorn; True stops the server."""
        return await super().on_tick(counter) or self._drain.over

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening, hear out whoever has connected, and let running requests finish."""
        listeners = self._listeners()
        if not sockets:
            for each in listeners:
                drop_newcomers(each)
        await asyncio.sleep(HANDSHAKE_S)  # still accepting
        for server in self.servers:
            server.close()
            if isinstance(server, SharedListener):
                await server.wait_closed()
        for connection in self._take_over(listeners, shared=bool(sockets)):
            await asyncio.get_running_loop().connect_accepted_socket(self._protocol, connection)
        await self._hear_out()
        self._stopping()
        await super().shutdown(sockets)
        self._stopped()

    def _listeners(self) -> list[socket.socket]:
        """Return the listening sockets, open for as long as the caller needs them."""
        return [
            socket.socket(fileno=os.dup(each.fileno()))
            for server in self.servers
            for each in server.sockets
        ]

    def _take_over(self, listeners: list[socket.socket], *, shared: bool) -> list[socket.socket]:
        """Close the listening sockets; return the connections that waited to be accepted.

        Those of shared sockets are left to the others, unless all have been told to leave.
        """
        waiting: list[socket.socket] = []
        for each in listeners:
            with each:
                if not shared or self._was_told:
                    waiting += accept_waiting(each)
        return waiting

    async def _hear_out(self) -> None:
        """Wait for the first requests of connections that have sent none yet."""
        patience_ends_s = time.monotonic() + FIRST_REQUEST_S
        is_last = False
        while self._has_silent_connection() and not is_last:
            is_last = time.monotonic() >= patience_ends_s
            # Once more after the end: what has arrived is read even by a process that got no
            # processor for so long.
            await asyncio.sleep(POLL_S)  # uvicorn tells nobody when a request begins

    def _protocol(self) -> asyncio.Protocol:
        make = cast("Callable[..., asyncio.Protocol]", self.config.http_protocol_class)
        return make(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )

    def _has_silent_connection(self) -> bool:
        """Whether a connection has not begun its first request."""
        return any(
            getattr(each, "cycle", None) is None  # uvicorn sets it when a request begins
            for each in self.server_state.connections
        )
