"""A form is split while it arrives, however it is cut."""

import asyncio
import os
from collections.abc import AsyncIterator

import httpx
import pytest
from starlette.datastructures import Headers

from service.classify_body import PIECE_BYTES, images_of
from service.problems import ProblemError

pytestmark = pytest.mark.anyio

IMAGES = [os.urandom(5), os.urandom(3 * PIECE_BYTES + 7), b"\r\n--" * PIECE_BYTES]


class Body:
    """A form, in chunks; counts what was read of it.

    Args:
        images: Its files.
        chunk_bytes: Size of its chunks.
    """

    def __init__(self, images: list[bytes], chunk_bytes: int) -> None:
        files = [("images", (str(i), data)) for i, data in enumerate(images)]
        request = httpx.Request("POST", "http://localhost", files=files)
        self.headers = Headers(dict(request.headers))
        self.form = request.read()
        self.num_read = 0
        self._chunk_bytes = chunk_bytes

    async def chunks(self) -> AsyncIterator[bytes]:
        for start in range(0, len(self.form), self._chunk_bytes):
            chunk = self.form[start : start + self._chunk_bytes]
            self.num_read += len(chunk)
            yield chunk


@pytest.mark.parametrize("chunk_bytes", [61, PIECE_BYTES - 1, PIECE_BYTES + 1, 1 << 30])
async def test_images_are_whole_however_their_form_is_cut(chunk_bytes: int) -> None:
    body = Body(IMAGES, chunk_bytes)
    assert await images_of(body.headers, body.chunks(), max_images=3) == IMAGES
    assert body.num_read == len(body.form)


@pytest.mark.parametrize("missing_bytes", [1, 4, 20, PIECE_BYTES])
async def test_a_form_that_is_cut_short_is_refused_whole(missing_bytes: int) -> None:
    body = Body([b"a", os.urandom(3 * PIECE_BYTES)], PIECE_BYTES)
    closing = len(b"--\r\n")
    body.form = body.form[: 1 - closing - missing_bytes]
    with pytest.raises(ProblemError, match="before its closing boundary"):
        await images_of(body.headers, body.chunks(), max_images=3)


async def test_a_broken_form_is_answered_and_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    body = Body([b"a"], 100)
    body.form = b"no boundary" + body.form
    with pytest.raises(ProblemError, match="Invalid multipart data"):
        await images_of(body.headers, body.chunks(), max_images=1)
    assert not caplog.records


async def test_what_follows_one_image_too_many_is_not_read() -> None:
    body = Body([b"a", b"b", os.urandom(4 * PIECE_BYTES)], 100)
    with pytest.raises(ProblemError, match="more than 1 images"):
        await images_of(body.headers, body.chunks(), max_images=1)
    assert body.num_read <= 1000


async def test_others_get_their_turn_while_a_large_chunk_is_split() -> None:
    body = Body([os.urandom(10 * PIECE_BYTES)], 1 << 30)
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    other = asyncio.create_task(take_turns())
    try:
        await images_of(body.headers, body.chunks(), max_images=1)
    finally:
        other.cancel()
    assert turns >= 10
