import asyncio
import logging

import pytest
from starlette.types import Message, Receive, Scope, Send

from service.slow_readers import CHUNK_BYTES, CutOffSlowReaders

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

    with caplog.at_level(logging.WARNING, logger="service.slow_readers"):
        async with asyncio.timeout(5):
            await ask(send)

    assert [len(message.get("body", b"")) for message in sent] == [0, CHUNK_BYTES]
    assert "a client left its answer unread" in caplog.text
