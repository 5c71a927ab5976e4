"""The body of an inference request: decompressed, and divided into JSON and binary tensors."""

import zlib
from contextlib import aclosing
from dataclasses import dataclass

from starlette.requests import Request

from service.bodies import chunks, too_large, whole
from service.cpu_threads import MAX_BYTES_ON_LOOP, on_cpu_thread
from service.inference.admission import BodyRoom
from service.oip.errors import bad_infer

HEADER_LENGTH = "Inference-Header-Content-Length"
ENCODINGS = ("identity", "gzip", "deflate")
_WBITS_OF_EITHER = 47  # zlib finds out by itself which of gzip and deflate it is


@dataclass(frozen=True)
class InferContent:
    """A body.

    Attributes:
        header: The JSON, or None if the whole body is one raw tensor.
        binary: What follows the JSON.
    """

    header: memoryview | None
    binary: memoryview


async def read_content(
    request: Request, room: BodyRoom, *, limit_bytes: int, idle_timeout_s: float
) -> InferContent:
    """Read a body, compressed or not, within its limits.

    Args:
        request: Its headers say the encoding and the length of the JSON.
        room: Counts the bytes in memory.
        limit_bytes: At most so many, both compressed and decompressed.
        idle_timeout_s: As `chunks`.

    Raises:
        ProblemError: 400 for a length or encoding that does not fit the body; 408, 413 and 415 as
            `chunks`.
        QueueFullError: No room for it in memory.
    """
    body = chunks(
        request,
        limit_bytes=limit_bytes,
        idle_timeout_s=idle_timeout_s,
        encodings=ENCODINGS,
        admit=room.add,
    )
    async with aclosing(body) as parts:
        data: bytes | bytearray = await whole(parts)
    if request.headers.get("content-encoding", "identity") != "identity":
        data = await on_cpu_thread(_decompressed, data, limit_bytes)
        room.add(len(data))
    return _divided(data, request.headers.get(HEADER_LENGTH))


def off_the_loop(content: InferContent) -> bool:
    """Say whether reading the JSON, or the tensors behind it, would hold up the event loop."""
    size = 0 if content.header is None else len(content.header) + len(content.binary)
    return size > MAX_BYTES_ON_LOOP


def _decompressed(data: bytes | bytearray, limit_bytes: int) -> bytes:
    inflate = zlib.decompressobj(_WBITS_OF_EITHER)
    try:
        found = inflate.decompress(data, limit_bytes + 1)
    except zlib.error as error:
        raise bad_infer(f"the body is neither gzip nor deflate: {error}") from error
    if len(found) > limit_bytes:
        raise too_large(f"more than {limit_bytes} decompressed", limit_bytes)
    if not inflate.eof or inflate.unused_data:
        raise bad_infer("the compressed body is cut short, or something follows it")
    return found


def _divided(data: bytes | bytearray, header_length: str | None) -> InferContent:
    view = memoryview(data).toreadonly()
    if header_length is None:
        return InferContent(view, view[len(view) :])
    digits = header_length.isascii() and header_length.isdigit() and len(header_length) <= 12  # noqa: PLR2004
    length = int(header_length) if digits else -1
    if not 0 <= length <= len(view):
        raise bad_infer(
            f"{HEADER_LENGTH} is {header_length[:32]!r}; it must be 0 to {len(view)}, the length "
            "of the body before compression"
        )
    return InferContent(view[:length] if length else None, view[length:])
