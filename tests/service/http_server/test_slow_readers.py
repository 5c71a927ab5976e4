import asyncio
import logging
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import cast

import httpx
import pytest
import uvicorn
from starlette.types import Message, Receive, Scope, Send

from service.http_server.protocol import BoundedProtocol
from service.http_server.slow_readers import CHUNK_BYTES, CutOffSlowReaders
from tests.service.http_server.bounded_server import bounded_server, rest_of

pytestmark = pytest.mark.anyio

BODY = bytes(range(256)) * 1000
PIECES = -(-len(BODY) // CHUNK_BYTES)


async def answer(_scope: Scope, _receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": BODY, "more_body": True})
    await send({"type": "http.response.body", "body": b"end"})


async def nothing() -> Message:
    raise AssertionError("nothing is received")


async def ask(send: Send) -> None:
    await CutOffSlowReaders(answer, idle_timeout_s=0.2)({"path": "/v1/x"}, nothing, send)


async def test_a_large_body_arrives_in_pieces_and_a_small_one_as_it_is() -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    await ask(send)

    start, *pieces, last = sent
    assert start["type"] == "http.response.start"
    assert b"".join(piece["body"] for piece in pieces) == BODY
    assert len(pieces) == PIECES
    assert max(len(piece["body"]) for piece in pieces) == CHUNK_BYTES
    assert all(piece["more_body"] for piece in pieces)
    assert last == {"type": "http.response.body", "body": b"end"}


async def test_a_slow_reader_gets_everything() -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        await asyncio.sleep(0.1)
        sent.append(message)

    await ask(send)
    assert b"".join(message.get("body", b"") for message in sent) == BODY + b"end"


async def test_a_client_that_reads_nothing_is_cut_off(caplog: pytest.LogCaptureFixture) -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        if len(sent) == 2:
            await asyncio.Event().wait()
        sent.append(message)

    with caplog.at_level(logging.WARNING, logger="service.http_server.slow_readers"):
        async with asyncio.timeout(5):
            await ask(send)

    assert [len(message.get("body", b"")) for message in sent] == [0, CHUNK_BYTES]
    assert "a client left its answer unread" in caplog.text


def test_behind_a_real_server_the_connection_is_closed_and_others_are_served(
    caplog: pytest.LogCaptureFixture,
) -> None:
    size = 30_000_000  # more than the kernel takes off the server's hands

    async def large(_scope: Scope, _receive: Receive, send: Send) -> None:
        length = [(b"content-length", str(size).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": length})
        await send({"type": "http.response.body", "body": bytes(size)})

    app = CutOffSlowReaders(large, idle_timeout_s=0.5)
    protocol = cast("type[asyncio.Protocol]", partial(BoundedProtocol, idle_timeout_s=30.0))
    config = uvicorn.Config(
        app, port=0, loop="uvloop", http=protocol, lifespan="off", log_config=None
    )
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        running = pool.submit(server.run, sockets=[listener])
        with socket.socket() as stalled:
            stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            stalled.connect(listener.getsockname())
            stalled.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            until_s = time.monotonic() + 30
            while not server.server_state.connections:
                assert time.monotonic() < until_s
                time.sleep(0.01)
            while server.server_state.connections:  # though it reads nothing
                assert time.monotonic() < until_s
                time.sleep(0.01)
            url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
            assert len(httpx.get(url, timeout=30).content) == size
            server.should_exit = True
            running.result(timeout=30)
    assert "a client left its answer unread" in caplog.text
    assert "without completing response" not in caplog.text


async def test_a_small_answer_that_does_not_leave_is_given_up_too() -> None:
    async def small(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(_message: Message) -> None:
        await asyncio.Event().wait()

    async with asyncio.timeout(5):
        await CutOffSlowReaders(small, idle_timeout_s=0.2)({"path": "/"}, nothing, send)


def test_a_slow_but_steady_reader_gets_everything_from_a_real_server() -> None:
    size, rate, pauses_s = 12_000_000, 500_000, 0.02

    async def large(_scope: Scope, _receive: Receive, send: Send) -> None:
        length = [(b"content-length", str(size).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": length})
        await send({"type": "http.response.body", "body": bytes(size)})

    app = CutOffSlowReaders(large, idle_timeout_s=1.0)
    with bounded_server(app, idle_timeout_s=30.0) as server, server.connect() as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        received, until_s = 0, time.monotonic() + 6
        while time.monotonic() < until_s:
            received += len(client.recv(int(rate * pauses_s)))
            time.sleep(pauses_s)
        received += len(rest_of(client))
        assert received > size
