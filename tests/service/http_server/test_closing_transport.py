"""Clients that read none of their last answers, which fit into the buffers: a real server."""

import socket
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest
from starlette.types import Receive, Scope, Send

from service.http_server.protocol import UNREAD_S
from service.http_server.slow_readers import CutOffSlowReaders
from tests.service.http_server.bounded_server import PATIENCE_S, Bounded, bounded_server, rest_of

ANSWER = bytes(60_000)
UNREAD = [*range(1, 12), 20, 40]
"""Answers: few fit into the kernel's buffers, of many one is not even begun."""
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
LAST = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
RECEIVE_BYTES = 2048
IDLE_TIMEOUT_S = 1.0


async def answer(_scope: Scope, _receive: Receive, send: Send) -> None:
    length = [(b"content-length", str(len(ANSWER)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": length})
    await send({"type": "http.response.body", "body": ANSWER})


def serving(idle_timeout_s: float) -> Iterator[Bounded]:
    with bounded_server(CutOffSlowReaders(answer, IDLE_TIMEOUT_S), idle_timeout_s) as server:
        yield server


@pytest.fixture
def impatient() -> Iterator[Bounded]:
    yield from serving(IDLE_TIMEOUT_S)


@pytest.fixture
def patient() -> Iterator[Bounded]:
    yield from serving(10 * PATIENCE_S)


def ask(server: Bounded, counts: list[int], last: bytes = GET) -> list[socket.socket]:
    """Clients that have asked so often, the last time like this."""
    clients = [server.connect(receive_bytes=RECEIVE_BYTES) for _ in counts]
    for sent in range(max(counts)):
        for client, count in zip(clients, counts, strict=True):
            with suppress(ConnectionError):  # too many may wait
                client.sendall(GET * (sent < count - 1) + last * (sent == count - 1))
        time.sleep(0.01)  # so that they are answered before the next ones
    return clients


@pytest.mark.parametrize("last", [GET, LAST])
def test_they_are_cut_off_in_time(impatient: Bounded, last: bytes) -> None:
    clients = ask(impatient, UNREAD, last)
    impatient.wait_for(connections=0)
    for client in clients:
        client.close()


def test_neither_does_one_that_says_no_more(impatient: Bounded) -> None:
    clients = ask(impatient, UNREAD)
    for client in clients:
        with suppress(OSError):  # those that asked for too much are cut off already
            client.shutdown(socket.SHUT_WR)
    impatient.wait_for(connections=0)
    for client in clients:
        client.close()


@pytest.mark.parametrize("last", [GET, LAST])
def test_they_do_not_keep_the_process_from_leaving(patient: Bounded, last: bytes) -> None:
    clients = ask(patient, UNREAD, last)
    began_s = time.monotonic()
    patient.leave()
    patient.wait_for(connections=0)
    assert time.monotonic() - began_s < UNREAD_S + 4
    for client in clients:
        client.close()


def test_whoever_reads_meanwhile_gets_everything(patient: Bounded) -> None:
    count = 3
    (client,) = ask(patient, [count], LAST)
    with client:
        patient.leave()
        time.sleep(0.5)
        assert rest_of(client).count(ANSWER) == count
