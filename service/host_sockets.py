"""What one process of a host tells the others: an answer to a question, on a socket of its own."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TypeVar

import msgspec

TIMEOUT_S = 1.0

_Answer = TypeVar("_Answer")


@asynccontextmanager
async def answering(
    path: Path, answer: Callable[[bytes], Awaitable[object]]
) -> AsyncGenerator[None]:
    """Answer whoever connects, for as long as the context lasts.

    Args:
        path: The socket.
        answer: Called with the question; what it returns is sent as MessagePack.
    """

    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, TimeoutError):  # whoever asked is gone
            async with asyncio.timeout(TIMEOUT_S):
                question = await reader.read()
            writer.write(msgspec.msgpack.encode(await answer(question)))
        writer.close()

    _remove(path)
    server = await asyncio.start_unix_server(reply, path)
    try:
        yield
    finally:
        server.close()
        _remove(path)


async def asked(
    path: Path, decoder: msgspec.msgpack.Decoder[_Answer], question: bytes = b""
) -> _Answer | None:
    """Return the answer to a question; None if there is none, or no whole one, in `TIMEOUT_S`."""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            reader, writer = await asyncio.open_unix_connection(path)
            try:
                writer.write(question)
                writer.write_eof()
                return decoder.decode(await reader.read())
            finally:
                writer.close()
    except (OSError, TimeoutError, msgspec.MsgspecError):
        return None


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
