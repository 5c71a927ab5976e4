"""A real server that speaks `BoundedProtocol`, and what a client says and hears of it."""

import asyncio
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import uvicorn

from service.http_server.protocol import BoundedProtocol

PATIENCE_S = 20


class Bounded:
    """The server, on a thread.

    Attributes:
        address: Where it listens.
    """

    def __init__(self, server: uvicorn.Server, address: tuple[str, int]) -> None:
        self._server = server
        self.address = address

    @property
    def connections(self) -> int:
        return len(self._server.server_state.connections)

    def leave(self) -> None:
        self._server.should_exit = True

    def connect(self, *, receive_bytes: int | None = None) -> socket.socket:
        """A client, which may let the kernel keep so much for it."""
        client = socket.socket()
        client.settimeout(PATIENCE_S)
        if receive_bytes is not None:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        client.connect(self.address)
        return client

    def wait_for(self, connections: int) -> None:
        until_s = time.monotonic() + PATIENCE_S
        while self.connections != connections:
            assert time.monotonic() < until_s
            time.sleep(0.01)


@contextmanager
def bounded_server(app: Any, idle_timeout_s: float) -> Iterator[Bounded]:
    protocol = cast(
        "type[asyncio.Protocol]", partial(BoundedProtocol, idle_timeout_s=idle_timeout_s)
    )
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http=protocol,
        lifespan="off",
        log_config=None,
        timeout_graceful_shutdown=PATIENCE_S // 2,
    )
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        running = pool.submit(server.run, sockets=[listener])
        try:
            yield Bounded(server, listener.getsockname())
        finally:
            server.should_exit = True
            running.result(timeout=PATIENCE_S)


def rest_of(client: socket.socket) -> bytes:
    """All that still comes until the server closes the connection."""
    received = b""
    while chunk := client.recv(65536):
        received += chunk
    return received
