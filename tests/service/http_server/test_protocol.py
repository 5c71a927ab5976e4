"""Clients that send half of something, or more than enough of it, to a real server."""

import asyncio
import json
import socket
from collections.abc import Iterator
from contextlib import suppress

import pytest
from starlette.types import Receive, Scope, Send

from service.http_server.protocol import MAX_OVERHEAD_BYTES
from tests.service.http_server.bounded_server import PATIENCE_S, bounded_server, rest_of

IDLE_TIMEOUT_S = 1.0
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
def impatient() -> Iterator[tuple[str, int]]:
    with bounded_server(app, IDLE_TIMEOUT_S) as server:
        yield server.address


@pytest.fixture(scope="module")
def patient() -> Iterator[tuple[str, int]]:
    with bounded_server(app, 10 * PATIENCE_S) as server:
        yield server.address


@pytest.fixture
def client(impatient: tuple[str, int]) -> Iterator[socket.socket]:
    """A connection that may pause for `IDLE_TIMEOUT_S`."""
    with socket.create_connection(impatient, timeout=PATIENCE_S) as client:
        yield client


@pytest.fixture
def slow_client(patient: tuple[str, int]) -> Iterator[socket.socket]:
    """A connection that is not closed, however long a busy machine makes its client pause."""
    with socket.create_connection(patient, timeout=PATIENCE_S) as client:
        yield client


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


def test_requests_in_small_pieces_and_large_bodies_are_taken(slow_client: socket.socket) -> None:
    for byte in GET:
        slow_client.sendall(bytes([byte]))
    assert answer(slow_client) == b"0"
    size = 100 * MAX_OVERHEAD_BYTES
    slow_client.sendall(b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size)
    slow_client.sendall(bytes(size))
    assert answer(slow_client) == str(size).encode()
    slow_client.sendall(CHUNKED)
    for _ in range(MAX_OVERHEAD_BYTES // 8):
        slow_client.sendall(b"1\r\nx\r\n")
    slow_client.sendall(b"0\r\n\r\n")
    assert answer(slow_client) == str(MAX_OVERHEAD_BYTES // 8).encode()


@pytest.mark.parametrize("endless", [b"x" * 1000, b"a: b\r\n" * 100])
@pytest.mark.parametrize("begins", [b"GET /", b"GET / HTTP/1.1\r\nHost: x\r\nA: "])
def test_headers_without_end_are_refused(
    slow_client: socket.socket, begins: bytes, endless: bytes
) -> None:
    if begins == b"GET /" and b"\r\n" in endless:
        endless = endless.replace(b"\r\n", b"").replace(b" ", b"")
    sent = begins + endless * (2 * MAX_OVERHEAD_BYTES // len(endless))
    slow_client.sendall(sent)
    head, _, body = rest_of(slow_client).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 431 ")
    problem = json.loads(body)
    assert problem["type"] == "urn:hgprompt:problem:headers-too-large"
    assert problem["limit"] == MAX_OVERHEAD_BYTES


def test_trailers_without_end_end_the_connection(slow_client: socket.socket) -> None:
    slow_client.sendall(CHUNKED + b"1\r\nx\r\n0\r\n")
    try:
        slow_client.sendall(b"a: b\r\n" * MAX_OVERHEAD_BYTES)
        assert rest_of(slow_client) == b""
    except ConnectionError:
        pass


@pytest.mark.parametrize("garbage", [b"\x16\x03\x01", b"BAD\r\n\r\n", b"x" * 100 + b"\r\n\r\n"])
def test_what_is_no_http_is_refused_with_a_problem(
    slow_client: socket.socket, garbage: bytes
) -> None:
    slow_client.sendall(garbage)
    head, _, body = rest_of(slow_client).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/problem+json")
    assert json.loads(body)["type"] == "urn:hgprompt:problem:bad-request"


def test_behind_a_request_it_is_not_taken_for_its_answer(slow_client: socket.socket) -> None:
    slow_client.sendall(GET.replace(b"/", b"/slow", 1) + b"BAD\r\n\r\n")
    with suppress(ConnectionError):
        assert rest_of(slow_client) == b""
