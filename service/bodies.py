"""Reading request bodies: bounded in size and in patience."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection
from contextlib import ExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from starlette.requests import Request

from prompt_store.scratch import scratch_folder
from service.content_digest import ALGORITHMS, check_content_digest, checked_algorithms
from service.problems import ProblemError, problem_error


@dataclass(frozen=True)
class ReceivedFile:
    """An uploaded body on disk; the file is removed when the request ends."""

    path: Path
    digest: str
    size_bytes: int


def too_large(size: str, limit_bytes: int) -> ProblemError:
    """Return 413 for a body."""
    return problem_error(
        413,
        "body-too-large",
        "The body is too large",
        f"the body has {size} bytes; the limit is {limit_bytes}",
        field="body",
        limit=limit_bytes,
    )


def _check_headers(request: Request, limit_bytes: int, encodings: Collection[str]) -> None:
    """Refuse, before reading it, a body in another encoding or declared to be too long."""
    encoding = request.headers.get("content-encoding", "identity")
    if encoding not in encodings:
        raise problem_error(
            415,
            "encoding-not-supported",
            "The body's encoding is not supported",
            f"Content-Encoding {encoding[:32]!r} is not one of {', '.join(encodings)}",
            field="Content-Encoding",
        )
    length = request.headers.get("content-length", "")
    if length.isascii() and length.isdigit() and int(length) > limit_bytes:
        raise too_large(length, limit_bytes)


def chunks(
    request: Request,
    *,
    limit_bytes: int,
    idle_timeout_s: float,
    encodings: Collection[str] = ("identity",),
    admit: Callable[[int], None] | None = None,
) -> AsyncGenerator[bytes]:
    """Return the body piece by piece, as it was sent; its headers are checked at once.

    Args:
        request: Whose body.
        limit_bytes: Of the whole body.
        idle_timeout_s: How long nothing may arrive.
        encodings: What `Content-Encoding` may be.
        admit: Called with the size of each piece before it is yielded; what it raises ends the
            body.

    Raises:
        ProblemError: 413 past the limit, 408 when nothing came for `idle_timeout_s`, 415 if its
            encoding is not one of `encodings`.
        ClientDisconnect: The client went away.
    """
    _check_headers(request, limit_bytes, encodings)
    return _arriving(request, limit_bytes, idle_timeout_s, admit)


async def _arriving(
    request: Request,
    limit_bytes: int,
    idle_timeout_s: float,
    admit: Callable[[int], None] | None,
) -> AsyncGenerator[bytes]:
    received = 0
    async with aclosing(request.stream()) as stream:
        while True:
            try:
                async with asyncio.timeout(idle_timeout_s):
                    chunk = await anext(stream, b"")
            except TimeoutError as error:
                raise problem_error(
                    408,
                    "body-timeout",
                    "The body did not arrive in time",
                    f"nothing arrived for {idle_timeout_s:g} s, after {received} bytes",
                    field="body",
                    limit=idle_timeout_s,
                ) from error
            if not chunk:
                return
            received += len(chunk)
            if received > limit_bytes:
                raise too_large(f"more than {limit_bytes}", limit_bytes)
            if admit is not None:
                admit(len(chunk))
            yield chunk


async def whole(body: AsyncIterator[bytes]) -> bytearray:
    """Return a body in one piece, which grows in place: it is never there twice."""
    data = bytearray()
    async for chunk in body:
        data += chunk
    return data


@asynccontextmanager
async def received_file(
    request: Request, folder: Path, *, limit_bytes: int, idle_timeout_s: float
) -> AsyncGenerator[ReceivedFile]:
    """Spool the body to a temporary file, checking `Content-Digest` when it was sent.

    Raises:
        ProblemError: 400 as `check_content_digest`, 408, 413 and 415 as `chunks`.
        ClientDisconnect: The client went away.
    """
    stack = ExitStack()
    path = stack.enter_context(scratch_folder(folder)) / "body"
    try:
        claims = request.headers.getlist("content-digest")
        running = {name: ALGORITHMS[name]() for name in {"sha-256"} | checked_algorithms(claims)}
        size = 0
        with path.open("wb") as file:
            body = chunks(request, limit_bytes=limit_bytes, idle_timeout_s=idle_timeout_s)
            async with aclosing(body) as parts:
                async for chunk in parts:
                    for each in running.values():
                        each.update(chunk)
                    size += len(chunk)
                    await asyncio.to_thread(file.write, chunk)
        check_content_digest(claims, {name: each.digest() for name, each in running.items()})
        yield ReceivedFile(path, f"sha256:{running['sha-256'].hexdigest()}", size)
    finally:
        await asyncio.to_thread(stack.close)
