"""Whatever is written to the engine's socket, the engine and its other fronts go on."""

import asyncio
import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from service.inference.remote.arena import slot_bytes_for
from service.inference.remote.frames import LENGTH, framed
from service.inference.remote.messages import Attach, Cancel, Compute, Pixels

pytestmark = pytest.mark.anyio
SLOT_BYTES = slot_bytes_for(32)
SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
DIGEST = f"sha256:{'2' * 64}"


def memory(size_bytes: int, seals: int) -> int:
    descriptor = os.memfd_create("hostile", os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, size_bytes)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return descriptor


class Hostile:
    """A connection that says what it likes."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(10)
        self.socket.connect(str(path))
        (length,) = LENGTH.unpack(self.socket.recv(LENGTH.size, socket.MSG_WAITALL))
        self.socket.recv(length, socket.MSG_WAITALL)

    def attach(self, descriptors: Sequence[int], said: bytes | None = None) -> None:
        said = framed(Attach("hostile", 4, SLOT_BYTES)) if said is None else said
        socket.send_fds(self.socket, [said], list(descriptors))
        for descriptor in descriptors:
            os.close(descriptor)

    def is_cut_off(self) -> bool:
        try:
            while self.socket.recv(65_536):
                pass
        except ConnectionResetError:
            pass
        finally:
            self.socket.close()
        return True


def num_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def garbage() -> Iterator[bytes]:
    rng = np.random.default_rng(0)
    yield from (rng.bytes(int(rng.integers(1, 4000))) for _ in range(100))
    yield LENGTH.pack(2**32 - 1)
    yield LENGTH.pack(0)
    yield LENGTH.pack(8) + b"\xdc\xff\xff" * 3
    yield LENGTH.pack(100_000) + b"\x91" * 100_000  # arrays in arrays
    for value in (
        {},
        [],
        None,
        ["compute"],
        ["beat", True, 1, 1.0],
        ["cancel", -1],
        ["cancel", "x"],
    ):
        payload = msgspec.msgpack.encode(value)
        yield LENGTH.pack(len(payload)) + payload
    valid = ["compute", 1, DIGEST, [[0, False]], 1e9, False, False]
    for place, value in (
        (1, 2**60), (2, "x" * 300), (2, b"x"), (3, [[99, False]]), (3, [[-1, False]]),
        (3, [[0, 1]]), (3, [[0, False], [0, True]]), (3, [[0, False]] * 5000), (4, float("nan")),
        (4, float("inf")), (4, -1.0), (5, None),
    ):  # fmt: skip
        payload = msgspec.msgpack.encode([*valid[:place], value, *valid[place + 1 :]])
        yield LENGTH.pack(len(payload)) + payload
    yield framed(Compute(1, DIGEST, (Pixels(0, False),), 1e9, False, False)) + framed(
        Compute(1, DIGEST, (Pixels(1, False),), 1e9, False, False)
    )
    yield framed(Compute(1, DIGEST, (Pixels(0, False),), 1e9, False, False)) + framed(
        Compute(2, DIGEST, (Pixels(0, False),), 1e9, False, False)
    )


def first_words() -> Iterator[tuple[list[int], bytes | None]]:
    pipe, other_end = os.pipe()
    yield [pipe, other_end], None
    yield [os.open("/dev/null", os.O_RDWR)], None
    yield [os.open("/etc/hostname", os.O_RDONLY)], None
    yield [memory(4 * SLOT_BYTES, 0)], None  # could be truncated later
    yield [memory(SLOT_BYTES, SEALS)], None  # smaller than it says
    yield [memory(4 * SLOT_BYTES, SEALS) for _ in range(20)], None
    for said in (
        framed(Attach("small", 4, 1)),
        framed(Attach("x" * 65, 4, SLOT_BYTES)),
        framed(Attach("none", 0, SLOT_BYTES)),
        framed(Attach("many", 1 << 24, 1 << 32)),
        framed(Cancel(1)),
        LENGTH.pack(1 << 31),
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    ):
        yield [memory(4 * SLOT_BYTES, SEALS)], said
    yield [], framed(Attach("no memory", 4, SLOT_BYTES))


async def test_nothing_that_is_written_there_disturbs_the_engine(
    open_host: Any, open_front: Any, publish: Callable[..., Any], socket_path: Path, eventually: Any
) -> None:
    _, digest = publish("a", seed=1)
    pixels = [np.random.default_rng(0).integers(0, 256, (3, 32, 32), dtype=np.uint8)]
    async with open_host() as host, open_front() as front:
        expected = await front.compute(digest, pixels, deadline_s=time.monotonic() + 60)
        num_open = num_descriptors()

        async def other_front_is_served() -> None:
            found = await front.compute(digest, pixels, deadline_s=time.monotonic() + 60)
            np.testing.assert_array_equal(
                found.outcomes[0].probabilities, expected.outcomes[0].probabilities
            )

        for descriptors, said in first_words():
            hostile = await asyncio.to_thread(Hostile, socket_path)
            hostile.attach(descriptors, said)
            assert await asyncio.to_thread(hostile.is_cut_off)
            await other_front_is_served()
        for data in garbage():
            hostile = await asyncio.to_thread(Hostile, socket_path)
            hostile.attach([memory(4 * SLOT_BYTES, SEALS)])
            hostile.socket.sendall(data)
            hostile.socket.shutdown(socket.SHUT_WR)
            assert await asyncio.to_thread(hostile.is_cut_off)
            await other_front_is_served()
        await eventually(lambda: host.server.num_fronts == 1)
        await eventually(lambda: num_descriptors() <= num_open)


async def test_one_that_says_nothing_is_cut_off(
    open_host: Any, socket_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.inference.remote.handshake.TIMEOUT_S", 0.2)
    async with open_host():
        silent = await asyncio.to_thread(Hostile, socket_path)
        assert await asyncio.to_thread(silent.is_cut_off)
        halting = await asyncio.to_thread(Hostile, socket_path)
        halting.attach([memory(SLOT_BYTES, SEALS)], b"\x10\x00")
        assert await asyncio.to_thread(halting.is_cut_off)
