"""Clients that send half of something, or more than enough of it, to a real server."""

import asyncio
import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import cast

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from service.http_protocol import MAX_OVERHEAD_BYTES, BoundedProtocol

IDLE_TIMEOUT_S = 0.5
PATIENCE_S = 20
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
CHUNKED = b"POST /body HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the size of the body, after a while, or before the body has come."""
    size = 0
    if scope["path"] == "/slow":
        await asyncio.sleep(3 * IDLE_TIMEOUT_S)
    elif scope["path"] == "/body":
        more = True
        while more:
            message = await receive()
            size += len(message.get("body", b""))
            more = message.get("more_body", False)
    body = str(size).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture(scope="module")
def address() -> Iterator[tuple[str, int]]:
    protocol = cast(
        "type[asyncio.Protocol]", partial(BoundedProtocol, idle_timeout_s=IDLE_TIMEOUT_S)
    )
    config = uvicorn.Config(app, loop="uvloop", http=protocol, lifespan="off", log_config=None)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        running = pool.submit(server.run, sockets=[listener])
        yield listener.getsockname()
        server.should_exit = True
        running.result(timeout=PATIENCE_S)


@pytest.fixture
def client(address: tuple[str, int]) -> Iterator[socket.socket]:
    with socket.create_connection(address, timeout=PATIENCE_S) as client:
        yield client


def rest_of(client: socket.socket) -> bytes:
    """All that still comes until the server closes the connection."""
    received = b""
    while chunk := client.recv(65536):
        received += chunk
    return received


def answer(client: socket.socket) -> bytes:
    """One answer of the application."""
    received = b""
    while not received.partition(b"\r\n\r\n")[2]:
        received += client.recv(65536)
    assert received.startswith(b"HTTP/1.1 200")
    return received.partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize("begins", [b"", b"G", GET[:-1], b"POST /x HTTP/1.1\r\nHost: "])
def test_half_a_request_is_not_awaited_for_ever(client: socket.socket, begins: bytes) -> None:
    client.sendall(begins)
    assert rest_of(client) == b""


def test_neither_is_the_second_half_of_a_body_that_was_answered(client: socket.socket) -> None:
    client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n")
    assert answer(client) == b"0"
    client.sendall(b"x")
    assert rest_of(client) == b""


def test_a_request_that_is_running_is_left_in_peace(client: socket.socket) -> None:
    client.sendall(GET.replace(b"/", b"/slow", 1))
    assert answer(client) == b"0"


def test_requests_in_small_pieces_and_large_bodies_are_taken(client: socket.socket) -> None:
    for byte in GET:
        client.sendall(bytes([byte]))
    assert answer(client) == b"0"
    size = 100 * MAX_OVERHEAD_BYTES
    client.sendall(b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size)
    client.sendall(bytes(size))
    assert answer(client) == str(size).encode()
    client.sendall(CHUNKED)
    for _ in range(MAX_OVERHEAD_BYTES // 8):
        client.sendall(b"1\r\nx\r\n")
    client.sendall(b"0\r\n\r\n")
    assert answer(client) == str(MAX_OVERHEAD_BYTES // 8).encode()


@pytest.mark.parametrize("endless", [b"x" * 1000, b"a: b\r\n" * 100])
@pytest.mark.parametrize("begins", [b"GET /", b"GET / HTTP/1.1\r\nHost: x\r\nA: "])
def test_headers_without_end_are_refused(
    client: socket.socket, begins: bytes, endless: bytes
) -> None:
    if begins == b"GET /" and b"\r\n" in endless:
        endless = endless.replace(b"\r\n", b"").replace(b" ", b"")
    sent = begins + endless * (2 * MAX_OVERHEAD_BYTES // len(endless))
    client.sendall(sent)
    head, _, body = rest_of(client).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 431 ")
    problem = json.loads(body)
    assert problem["type"] == "urn:hgprompt:problem:headers-too-large"
    assert problem["limit"] == MAX_OVERHEAD_BYTES


def test_trailers_without_end_end_the_connection(client: socket.socket) -> None:
    client.sendall(CHUNKED + b"1\r\nx\r\n0\r\n")
    try:
        client.sendall(b"a: b\r\n" * MAX_OVERHEAD_BYTES)
        assert rest_of(client) == b""
    except ConnectionError:
        pass
