"""Requests that are sent before those before them have been answered, to a real server."""

import socket
import time
from collections.abc import Iterator

import pytest
from starlette.types import Receive, Scope, Send

from service.http_server.protocol import MAX_UNANSWERED
from tests.service.http_server.bounded_server import PATIENCE_S, Bounded, bounded_server, rest_of

FOLLOW = b"GET /follow HTTP/1.1\r\nHost: x\r\n\r\n"
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
LAST = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


class Following:
    """An application of streams that go on until the client has left, and of short answers."""

    def __init__(self) -> None:
        self.streams = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        await send({"type": "http.response.start", "status": 200, "headers": []})
        if scope["path"] == "/follow":
            await self._follow(receive, send)
        await send({"type": "http.response.body", "body": b"end"})

    async def _follow(self, receive: Receive, send: Send) -> None:
        self.streams += 1
        await send({"type": "http.response.body", "body": b"begin", "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass
        self.streams -= 1


@pytest.fixture
def app() -> Following:
    return Following()


@pytest.fixture
def server(app: Following) -> Iterator[Bounded]:
    with bounded_server(app, idle_timeout_s=10 * PATIENCE_S) as server:
        yield server


def begin_to_follow(client: socket.socket) -> None:
    client.sendall(FOLLOW)
    received = b""
    while b"begin" not in received:
        received += client.recv(65536)


def test_a_few_at_once_are_answered(server: Bounded) -> None:
    with server.connect() as client:
        client.sendall(GET * (MAX_UNANSWERED - 1) + LAST)
        assert rest_of(client).count(b"end") == MAX_UNANSWERED


@pytest.mark.parametrize("is_at_once", [True, False])
def test_more_of_them_end_the_connection(server: Bounded, *, is_at_once: bool) -> None:
    with server.connect() as client:
        begin_to_follow(client)
        try:
            for _ in range(1 if is_at_once else 1000):
                client.sendall(GET * (1000 if is_at_once else 1))
            assert rest_of(client) == b""
        except ConnectionError:
            pass
        server.wait_for(connections=0)


@pytest.mark.parametrize("queued", [b"", GET, 3 * GET])
def test_a_stream_ends_with_its_client_whatever_waits_behind_it(
    server: Bounded, app: Following, queued: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with server.connect() as client:
        begin_to_follow(client)
        client.sendall(queued)
    server.wait_for(connections=0)
    until_s = time.monotonic() + PATIENCE_S
    while app.streams:
        assert time.monotonic() < until_s
        time.sleep(0.01)
    assert "Exception in ASGI application" not in caplog.text
