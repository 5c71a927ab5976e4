"""How a front and the engine's process meet: before messages flow, a file descriptor is passed."""

import asyncio
import os
import socket
from pathlib import Path

from service.inference.remote.arena import ArenaView, PixelArena
from service.inference.remote.errors import ProtocolError
from service.inference.remote.frames import MAX_FROM_FRONT_BYTES, FrameReader, M, framed
from service.inference.remote.messages import PROTOCOL_VERSION, Attach, Welcome

TIMEOUT_S = 5.0
MAX_DESCRIPTORS = 8
"""More than the one that is expected, so that none of a liar's stay open unnoticed."""


async def connected(path: Path) -> tuple[socket.socket, Welcome]:
    """Connect to the engine's process; the front's first step.

    Raises:
        OSError: Nobody listens, or it hung up.
        TimeoutError: It did not say a word.
        ProtocolError: It speaks another language.
    """
    loop = asyncio.get_running_loop()
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.setblocking(False)
        async with asyncio.timeout(TIMEOUT_S):
            await loop.sock_connect(connection, str(path))
            said = await _first(connection, FrameReader(Welcome, MAX_FROM_FRONT_BYTES))
        _check_version(said)
    except BaseException:
        connection.close()
        raise
    return connection, said


def attach(connection: socket.socket, name: str, arena: PixelArena) -> None:
    """Pass the arena on; the front's second step."""
    said = framed(Attach(name, arena.num_slots, arena.slot_bytes))
    if socket.send_fds(connection, [said], [arena.descriptor]) != len(said):
        raise ProtocolError("the engine takes no more bytes")  # an empty buffer takes so few


async def attached(
    connection: socket.socket, said: Welcome, image_size_px: int
) -> tuple[str, ArenaView]:
    """Welcome a front and map its arena; the engine's side.

    Args:
        connection: Accepted, non-blocking.
        said: What to say.
        image_size_px: Side of an image.

    Raises:
        OSError: The front hung up.
        TimeoutError: It did not attach anything.
        ProtocolError: It sent something else.
    """
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(TIMEOUT_S):
        await loop.sock_sendall(connection, framed(said))
        await _readable(connection)
        data, descriptors, _, _ = socket.recv_fds(connection, 1, MAX_DESCRIPTORS)
        try:
            if not data:
                raise ConnectionResetError("the other side hung up")
            if len(descriptors) != 1:
                raise ProtocolError(f"{len(descriptors)} descriptors came, 1 was expected")
            reader = FrameReader(Attach, MAX_FROM_FRONT_BYTES)
            attaching = await _first(connection, reader, data)
            view = ArenaView(descriptors[0], attaching, image_size_px)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
    return attaching.name, view


async def _first(connection: socket.socket, reader: FrameReader[M], data: bytes = b"") -> M:
    """Read one message and not a byte more."""
    loop = asyncio.get_running_loop()
    while True:
        for message in reader.feed(data):
            return message
        data = await loop.sock_recv(connection, reader.missing_bytes)
        if not data:
            raise ConnectionResetError("the other side hung up")


async def _readable(connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    arrived = loop.create_future()
    loop.add_reader(connection, lambda: arrived.done() or arrived.set_result(None))
    try:
        await arrived
    finally:
        loop.remove_reader(connection)


def _check_version(said: Welcome) -> None:
    if said.version != PROTOCOL_VERSION:
        raise ProtocolError(f"the engine speaks version {said.version}, not {PROTOCOL_VERSION}")
