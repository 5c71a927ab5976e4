"""A form is split while it arrives, however it is cut."""

import asyncio
import codecs
import gc
import os
from collections.abc import AsyncIterator

import httpx
import pytest
from starlette.datastructures import Headers
from starlette.formparsers import MultiPartParser

from service.classify_body import PIECE_BOUNDARIES, PIECE_BYTES, images_of
from service.problems import ProblemError

pytestmark = pytest.mark.anyio

IMAGES = [os.urandom(5), os.urandom(3 * PIECE_BYTES + 7), b"\r\n--" * PIECE_BYTES]


class Body:
    """A form, in chunks; counts what was read of it.

    Args:
        images: Its files.
        chunk_bytes: Size of its chunks.
        boundary: Of its parts.
    """

    def __init__(self, images: list[bytes], chunk_bytes: int, boundary: str = "b" * 32) -> None:
        files = [("images", (str(i), data)) for i, data in enumerate(images)]
        headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        request = httpx.Request("POST", "http://localhost", files=files, headers=headers)
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


@pytest.mark.parametrize("cut", range(8))
async def test_what_may_come_before_a_form_does_not_depend_on_how_it_is_cut(cut: int) -> None:
    body = Body([b"a"], 1 << 30)

    async def in_two(before: bytes) -> AsyncIterator[bytes]:
        form = before + body.form
        yield form[:cut]
        yield form[cut:]

    for before in (b"", b"\r\n", b"\r\n\r\n"):
        assert await images_of(body.headers, in_two(before), max_images=1) == [b"a"]
    for before in (b"\r\nxy", b"xy\r\n"):
        with pytest.raises(ProblemError, match="Invalid multipart data"):
            await images_of(body.headers, in_two(before), max_images=1)


@pytest.mark.parametrize(
    ("boundary", "is_known"),
    [
        ("b", True),
        ("b" * 70, True),
        ('"b c"', True),
        ("b" * 71, False),
        ("b\xe9", False),
        ("", False),
    ],
)
async def test_a_boundary_is_of_the_characters_of_the_standard(
    boundary: str, is_known: bool
) -> None:
    form = b'--%s\r\nContent-Disposition: form-data; name="images"; filename="x"\r\n\r\na\r\n--%s--'
    bare = boundary.strip('"').encode("latin-1")

    async def body() -> AsyncIterator[bytes]:
        yield form % (bare, bare)

    headers = Headers({"Content-Type": f"multipart/form-data; boundary={boundary}"})
    if is_known:
        assert await images_of(headers, body(), max_images=1) == [b"a"]
    else:
        with pytest.raises(ProblemError, match="the boundary is missing"):
            await images_of(headers, body(), max_images=1)


async def test_no_charset_of_a_caller_is_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def lookup(name: str) -> codecs.CodecInfo:
        asked.append(name)
        return codecs_lookup(name)

    codecs_lookup = codecs.lookup
    monkeypatch.setattr(codecs, "lookup", lookup)
    body = Body([b"a"], 100)
    headers = Headers({"Content-Type": f"{body.headers['Content-Type']}; charset=utf-16"})
    assert await images_of(headers, body.chunks(), max_images=1) == [b"a"]
    assert set(asked) == {"utf-8"}


async def test_nothing_of_a_refused_form_waits_for_the_garbage_collector() -> None:
    gc.collect()
    gc.disable()
    try:
        for form in (b"--b\r\nX: y", b"--b\r\n\r\nx\r\n--b--"):

            async def body(form: bytes = form) -> AsyncIterator[bytes]:
                yield form

            headers = Headers({"Content-Type": "multipart/form-data; boundary=b"})
            with pytest.raises(ProblemError):
                await images_of(headers, body(), max_images=1)
        assert not [each for each in gc.get_objects() if issubclass(type(each), MultiPartParser)]
    finally:
        gc.enable()


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


@pytest.mark.parametrize(
    ("boundary", "data", "least_turns"),
    [
        ("b" * 40, os.urandom(10 * PIECE_BYTES), 10),
        # The parser looks at each byte of this.
        ("b", b"\r\n--b-x" * 70_000, 490_000 // (5 * PIECE_BOUNDARIES)),
    ],
)
async def test_others_get_their_turn_while_a_large_chunk_is_split(
    boundary: str, data: bytes, least_turns: int
) -> None:
    body = Body([data], 1 << 30, boundary)
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
    assert turns >= least_turns
