"""The three forms in which images to classify arrive: raw, multipart, or base64 in JSON."""

import asyncio
import re
from collections.abc import AsyncGenerator
from functools import partial

import msgspec
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from service.cpu_threads import MAX_BYTES_ON_LOOP, on_cpu_thread
from service.problems import ProblemError, problem_error

FIELD = "images"
PIECE_BYTES = 1 << 16
SPARE_VALUES = 1000
"""How many values a JSON body may have besides the images."""


class _JsonBody(msgspec.Struct, forbid_unknown_fields=True):
    """What would be passed over, such as a `top_k` that belongs into the query, is refused."""

    images: list[bytes]


_DECODER = msgspec.json.Decoder(_JsonBody)
_PLACE = re.compile(r"unknown field `(.*)`|at `\$\.(.*)`$", re.DOTALL)
"""Where in the body, as `msgspec` tells it."""


class _InMemoryParser(MultiPartParser):
    """The body is in memory already, so its parts need not go to disk."""

    spool_max_size = 1 << 40


async def images_of(headers: Headers, body: bytearray, *, max_images: int) -> list[bytes]:
    """Split a body into encoded images, at least one.

    Args:
        headers: `Content-Type` decides: multipart/form-data, application/json, anything else raw.
        body: The whole body.
        max_images: At most so many.

    Raises:
        ProblemError: 400 or 422, there is no image, there are too many, the body is broken, or
            holds something else.
    """
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type == "multipart/form-data":
        images = await _multipart(headers, body, max_images)
    elif media_type == "application/json":
        images = await on_cpu_thread(_json, body, max_images)
    else:
        images = [bytes(body)] if body else []
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


async def _multipart(headers: Headers, body: bytearray, max_images: int) -> list[bytes]:
    """Split a form, on another thread if it is large."""
    parsing = partial(_parsed_form, headers, body, max_images)
    if len(body) <= MAX_BYTES_ON_LOOP:
        return await parsing()
    # Starlette's parser awaits what holds its body only, which is in memory: it never waits.
    return await on_cpu_thread(lambda: asyncio.run(parsing()))


async def _parsed_form(headers: Headers, body: bytearray, max_images: int) -> list[bytes]:
    async def stream() -> AsyncGenerator[bytes, None]:
        # In pieces: the parser holds a copy of the one that it is at.
        for start in range(0, len(body), PIECE_BYTES):
            yield bytes(body[start : start + PIECE_BYTES])

    parser = _InMemoryParser(headers, stream(), max_files=max_images, max_fields=0)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise _refused(error.message, max_images) from error
    except KeyError as error:
        raise _malformed("the boundary is missing from Content-Type") from error
    except UnicodeError as error:
        raise _malformed("the names of the parts are not in the charset of Content-Type") from error
    try:
        images: list[bytes] = []
        for name, part in form.multi_items():
            if name != FIELD or not isinstance(part, UploadFile):
                raise _malformed(f"part {name[:64]!r} is not a file named {FIELD!r}")
            images.append(await part.read())
            await part.close()  # its own copy goes before the next one is made
        return images
    finally:
        await form.close()


def _refused(message: str, max_images: int) -> ProblemError:
    """What the parser refuses, in words that do not need its own limits to be known."""
    if message.startswith("Too many files"):
        return _too_many(max_images)
    if message.startswith("Too many fields"):
        return _malformed(f"a part is not a file; each must be a file named {FIELD!r}")
    return _malformed(message)


def _json(body: bytearray, max_images: int) -> list[bytes]:
    # Base64 has none of these: more of them would be values that take many times their text.
    if sum(body.count(sign) for sign in (b",", b"[", b"{")) > max_images + SPARE_VALUES:
        raise _too_many(max_images)
    try:
        images = _DECODER.decode(body).images
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
