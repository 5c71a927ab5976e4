import asyncio
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import cast

import pytest
import uvloop

from service.http_server import shared_listener
from service.http_server.shared_listener import SharedListener

NUM_CLIENTS = 64
ADDRESS = ("127.0.0.1", 0)


class Counting(asyncio.Protocol):
    """Greets each connection with a name, and notes it."""

    def __init__(self, seen: list[str], name: str) -> None:
        self._seen = seen
        self._name = name

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._seen.append(self._name)
        cast("asyncio.Transport", transport).write(self._name.encode())
        transport.close()


@asynccontextmanager
async def two_listeners() -> AsyncGenerator[tuple[list[str], tuple[str, int]]]:
    """Both on one socket, as two processes that have inherited it."""
    seen: list[str] = []
    with socket.socket() as bound:
        bound.bind(ADDRESS)
        with bound.dup() as second:
            both = [
                SharedListener(each, 2048, lambda name=name: Counting(seen, name))
                for each, name in ((bound, "a"), (second, "b"))
            ]
            yield seen, bound.getsockname()
            for each in both:
                each.close()
                await each.wait_closed()


def connected(address: tuple[str, int]) -> list[socket.socket]:
    return [socket.create_connection(address) for _ in range(NUM_CLIENTS)]


async def until_all_are_in(seen: list[str]) -> None:
    async with asyncio.timeout(10):
        while len(seen) < NUM_CLIENTS:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def test_clients_that_come_all_at_once_are_divided_between_those_who_listen() -> None:
    """`loop.create_server` takes everything that has connected when it looks."""

    async def main() -> list[str]:
        async with two_listeners() as (seen, address):
            clients = connected(address)  # the loop does not run meanwhile
            await until_all_are_in(seen)
            for each in clients:
                assert each.recv(1) in (b"a", b"b")
                each.close()
            return seen

    seen = uvloop.run(main())
    assert NUM_CLIENTS / 4 <= seen.count("a") <= 3 * NUM_CLIENTS / 4


def test_what_cannot_be_accepted_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_listener, "RETRY_S", 0.05)
    failures = 3

    class Exhausted(socket.socket):
        def accept(self) -> tuple[socket.socket, object]:
            nonlocal failures
            if failures:
                failures -= 1
                raise OSError(24, "Too many open files")
            return super().accept()

    async def main() -> None:
        seen: list[str] = []
        with Exhausted() as bound:
            bound.bind(ADDRESS)
            listener = SharedListener(bound, 16, lambda: Counting(seen, "a"))
            with socket.create_connection(bound.getsockname()) as client:
                async with asyncio.timeout(10):
                    while not seen:  # noqa: ASYNC110
                        await asyncio.sleep(0.01)
                assert client.recv(1) == b"a"
            listener.close()
            await listener.wait_closed()

    uvloop.run(main())
    assert failures == 0


def test_once_closed_it_accepts_nobody() -> None:
    async def main() -> None:
        seen: list[str] = []
        with socket.socket() as bound:
            bound.bind(ADDRESS)
            listener = SharedListener(bound, 16, lambda: Counting(seen, "a"))
            listener.close()
            with socket.create_connection(bound.getsockname()):
                await asyncio.sleep(0.1)
        assert seen == []

    uvloop.run(main())
