"""The three forms in which images to classify arrive: raw, multipart, or base64 in JSON."""

import asyncio
import binascii
import logging
import re
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing

import msgspec
from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from service.bodies import whole
from service.cpu_threads import on_cpu_thread
from service.problems import ProblemError, problem_error

FIELD = "images"
PIECE_BYTES = 1 << 16
"""At most so much of a form is split without letting others have the event loop."""

PIECE_BOUNDARIES = 512
"""Nor is more than so many times its boundary, which can be that often in it, or nearly."""

SPARE_VALUES = 1000
"""How many values a JSON body may have besides the images."""


# The caller is told what is wrong with a form: a warning for each would let callers fill the log.
logging.getLogger("python_multipart").setLevel(logging.ERROR)


class _JsonBody(msgspec.Struct, forbid_unknown_fields=True):
    """What would be passed over, such as a `top_k` that belongs into the query, is refused."""

    images: list[bytes]


class _JsonTexts(msgspec.Struct, forbid_unknown_fields=True):
    """The same, with the images as they are written."""

    images: list[str]


_DECODER = msgspec.json.Decoder(_JsonBody)
_TEXT_DECODER = msgspec.json.Decoder(_JsonTexts)
_PLACE = re.compile(r"unknown field `(.*)`|at `\$\.(.*)`$", re.DOTALL)
"""Where in the body, as `msgspec` tells it."""


_BOUNDARY = re.compile(rb"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")
"""RFC 2046, section 5.1.1."""


class _InMemoryParser(MultiPartParser):
    """The images are decoded from memory, so the parts need not go to disk."""

    spool_max_size = 1 << 40
    has_ended = False
    """Whether the closing boundary came; Starlette passes over a part that is cut short."""

    @property
    def part_name(self) -> str:
        """Of the part that is being read."""
        return self._current_part.field_name

    def on_end(self) -> None:
        self.has_ended = True


async def images_of(
    headers: Headers, body: AsyncIterator[bytes], *, max_images: int
) -> Sequence[bytes | ProblemError]:
    """Split a body into encoded images, at least one; of one that is no base64 in JSON, why.

    A form is split while it arrives, so its bytes are in memory once, but for a copy of one image
    at a time.

    Args:
        headers: `Content-Type` decides: multipart/form-data, application/json, anything else raw.
        body: The body, piece by piece.
        max_images: At most so many.

    Raises:
        ProblemError: 400 or 422, there is no image, there are too many, the body is broken, or
            holds something else; and what `body` raises.
    """
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type == "multipart/form-data":
        images = await _multipart(headers, body, max_images)
    elif media_type == "application/json":
        images = await on_cpu_thread(_json, await whole(body), max_images)
    else:
        image = bytes(await whole(body))
        images = [image] if image else []
    if not images:
        raise problem_error(
            422,
            "no-image",
            "There is no image",
            f"the body holds no image; expected 1 to {max_images}",
            field=FIELD,
            limit=max_images,
        )
    return images


async def _multipart(headers: Headers, body: AsyncIterator[bytes], max_images: int) -> list[bytes]:
    boundary = _boundary(headers)

    async def until_it_ends() -> AsyncGenerator[bytes]:
        async with aclosing(_in_pieces(body, _piece_bytes(boundary))) as pieces:
            async for piece in pieces:
                yield piece
        if not parser.has_ended:  # raised in here, so that the parser closes its files
            raise MultiPartException("the form ends before its closing boundary")

    # Of the header no more than it needs: Python remembers every `charset` that it is asked for.
    plain = Headers({"content-type": f'multipart/form-data; boundary="{boundary}"'})
    async with aclosing(until_it_ends()) as form_body:
        parser = _InMemoryParser(plain, form_body, max_files=max_images, max_fields=0)
        try:
            form = await parser.parse()
        except MultiPartException as error:
            raise _refused(error.message, parser.part_name, max_images) from error
    try:
        images: list[bytes] = []
        for name, part in form.multi_items():
            if name != FIELD or not isinstance(part, UploadFile):
                raise _malformed(f"part {name[:64]!r} is not a file named {FIELD!r}")
            images.append(await part.read())
            await part.close()  # its own copy goes before the next one is made
            await asyncio.sleep(0)
        return images
    finally:
        await form.close()


def _boundary(headers: Headers) -> str:
    """The boundary that `Content-Type` names."""
    boundary = parse_options_header(headers["content-type"])[1].get(b"boundary", b"")
    if not _BOUNDARY.fullmatch(boundary):
        raise _malformed(
            "the boundary is missing from Content-Type, or is not 1 to 70 of the characters that "
            "RFC 2046 allows"
        )
    return boundary.decode("ascii")


def _piece_bytes(boundary: str) -> int:
    """As much as is split in a millisecond or so, whatever is in it.

    After what begins like a boundary and is none, the parser goes on byte by byte.
    """
    return min(PIECE_BYTES, PIECE_BOUNDARIES * len(f"\r\n--{boundary}"))


async def _in_pieces(body: AsyncIterator[bytes], piece_bytes: int) -> AsyncGenerator[bytes]:
    """Yield what arrives so that others get their turn before each piece of it but the first.

    Line ends before the first boundary are left out: the parser would go on looking for it behind
    them in the same piece only.
    """
    has_begun = False
    async for chunk in body:
        arrived = chunk if has_begun else chunk.lstrip(b"\r\n")
        has_begun = has_begun or bool(arrived)
        for start in range(0, len(arrived), piece_bytes):
            if start:
                await asyncio.sleep(0)
            yield arrived[start : start + piece_bytes]


def _refused(message: str, part_name: str, max_images: int) -> ProblemError:
    """What the parser refuses, in words that do not need its own limits to be known."""
    if message.startswith("Too many files"):
        return _too_many(max_images)
    if message.startswith("Too many fields"):
        return _malformed(
            f"part {part_name[:64]!r} is not a file; each must be a file named {FIELD!r}"
        )
    return _malformed(message)


def _json(body: bytearray, max_images: int) -> Sequence[bytes | ProblemError]:
    # Base64 has none of these: more of them would be values that take many times their text.
    if sum(body.count(sign) for sign in (b",", b"[", b"{")) > max_images + SPARE_VALUES:
        raise _too_many(max_images)
    try:
        images = _decoded(body)
    except msgspec.ValidationError as error:
        place = _PLACE.search(str(error))
        field = FIELD if place is None else place[place.lastindex or 0]
        raise _malformed(str(error)[:200], status=422, field=field[:64]) from error
    except (ValueError, RecursionError) as error:
        raise problem_error(
            400, "malformed-json", "The body is not JSON", str(error), field="body"
        ) from error
    if len(images) > max_images:
        raise _too_many(max_images)
    return images


def _decoded(body: bytearray) -> Sequence[bytes | ProblemError]:
    try:
        return _DECODER.decode(body).images
    except msgspec.ValidationError as error:
        if not str(error).startswith("Invalid base64"):
            raise
    # One image fails only its own row.
    texts = _TEXT_DECODER.decode(body).images
    return [_from_base64(text, index) for index, text in enumerate(texts)]


def _from_base64(text: str, index: int) -> bytes | ProblemError:
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError as error:  # of characters beyond ASCII too
        place = f"{FIELD}[{index}]"
        return _malformed(f"{place} is not base64: {error}", status=422, field=place)


def _malformed(detail: str, *, status: int = 400, field: str = FIELD) -> ProblemError:
    return problem_error(
        status, "malformed-images", "The images cannot be taken from the body", detail, field=field
    )


def _too_many(max_images: int) -> ProblemError:
    return problem_error(
        422,
        "too-many-images",
        "There are too many images",
        f"the body holds more than {max_images} images",
        field=FIELD,
        limit=max_images,
    )
