"""Requests that ask for another protocol are answered as if they had not."""

import logging
import socket
import time
from collections.abc import Iterator

import pytest
from starlette.types import Receive, Scope, Send

from tests.service.http_server.bounded_server import PATIENCE_S, Bounded, bounded_server, rest_of

BODY = b"0123456789" * 50
WISHES = {
    "h2c": b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n",
    "websocket": b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
}
BODIES = {
    "sized": b"Content-Length: %d\r\n\r\n%b" % (len(BODY), BODY),
    "chunked": b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY),
    "empty": b"Content-Length: 0\r\n\r\n",
    "none": b"\r\n",
}
LAST = b"GET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with method, path and body."""
    body, more = b"", True
    while more:
        message = await receive()
        body += message["body"]
        more = message["more_body"]
    body = f"<{scope['method']} {scope['path']} ".encode() + body + b">"
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture(scope="module")
def server() -> Iterator[Bounded]:
    with bounded_server(echo, idle_timeout_s=10 * PATIENCE_S) as server:
        yield server


@pytest.fixture
def client(server: Bounded) -> Iterator[socket.socket]:
    with server.connect() as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield client


def pieces(request: bytes, split: str) -> Iterator[bytes]:
    if split == "bytes":
        yield from (request[at : at + 1] for at in range(len(request)))
    elif split == "head":
        head, end, body = request.partition(b"\r\n\r\n")
        yield from (head + end, body)
    else:
        yield request


@pytest.mark.parametrize("split", ["whole", "head", "bytes"])
@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("wish", WISHES)
def test_what_asks_for_an_upgrade_is_answered_and_so_is_what_follows(
    client: socket.socket, wish: str, body: str, split: str, caplog: pytest.LogCaptureFixture
) -> None:
    request = b"POST /first HTTP/1.1\r\nHost: x\r\n" + WISHES[wish] + BODIES[body]
    with caplog.at_level(logging.WARNING, logger="uvicorn.error"):
        for piece in pieces(request, split):
            client.sendall(piece)
            time.sleep(0.0 if split == "bytes" else 0.02)
        answered = b""
        while not answered.endswith(b">"):
            answered += client.recv(65536)
        client.sendall(LAST)
        answered += rest_of(client)
    sent = BODY if body in ("sized", "chunked") else b""
    assert answered.count(b"HTTP/1.1 200 ") == 2
    assert b"<POST /first " + sent + b">" in answered
    assert answered.endswith(b"<GET /last >")
    assert not [each for each in caplog.records if each.levelno >= logging.WARNING]


def test_several_in_one_segment_are_answered_in_their_order(client: socket.socket) -> None:
    for wish in WISHES.values():
        for body in BODIES.values():
            client.sendall(b"PUT /it HTTP/1.1\r\nHost: x\r\n" + wish + body)
    client.sendall(LAST)
    answered = rest_of(client)
    assert answered.count(b"HTTP/1.1 200 ") == 9
    assert answered.count(b"<PUT /it " + BODY + b">") == 4
    assert answered.endswith(b"<GET /last >")


def test_a_body_whose_end_nobody_can_tell_ends_the_connection(client: socket.socket) -> None:
    client.sendall(
        b"POST / HTTP/1.1\r\nHost: x\r\n" + WISHES["h2c"] + b"Transfer-Encoding: gzip\r\n\r\nxx"
    )
    assert b" 200 " not in rest_of(client)
