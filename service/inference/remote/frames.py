"""Messages on a stream: a length of four bytes, little-endian, then the message."""

import struct
from collections.abc import Iterator
from typing import Generic, TypeVar

import msgspec

from service.inference.remote.errors import ProtocolError
from service.inference.remote.messages import Message

LENGTH = struct.Struct("<I")
MAX_FROM_FRONT_BYTES = 1 << 20
MAX_FROM_ENGINE_BYTES = 1 << 29
"""4096 images of 10,000 classes, with features and labels, fit."""

M = TypeVar("M")


def framed(message: Message) -> bytes:
    """Return a message as it goes on the wire."""
    payload = msgspec.msgpack.encode(message)
    return LENGTH.pack(len(payload)) + payload


class FrameReader(Generic[M]):
    """Puts messages together again from pieces of the stream.

    Args:
        kinds: The type, or union of types, that may come.
        max_bytes: Longest message.
    """

    def __init__(self, kinds: type[M], max_bytes: int) -> None:
        self._decoder = msgspec.msgpack.Decoder(kinds)
        self._max_bytes = max_bytes
        self._pending = bytearray()

    def feed(self, data: bytes) -> Iterator[M]:
        """Yield the messages that are complete once `data` has arrived.

        Raises:
            ProtocolError: One is too long, or is not one of the kinds.
        """
        self._pending += data
        while (payload := self._next()) is not None:
            try:
                yield self._decoder.decode(payload)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                raise ProtocolError(f"a message of {len(payload)} bytes: {error}") from error

    @property
    def missing_bytes(self) -> int:
        """How many bytes the message that has begun lacks, at least."""
        if len(self._pending) < LENGTH.size:
            return LENGTH.size - len(self._pending)
        return LENGTH.size + LENGTH.unpack_from(self._pending)[0] - len(self._pending)

    def _next(self) -> bytes | None:
        if len(self._pending) < LENGTH.size:
            return None
        (length,) = LENGTH.unpack_from(self._pending)
        if length > self._max_bytes:
            raise ProtocolError(f"a message of {length} bytes; the limit is {self._max_bytes}")
        end = LENGTH.size + length
        if len(self._pending) < end:
            return None
        payload = bytes(self._pending[LENGTH.size : end])
        del self._pending[:end]
        return payload
