"""Immutable content over HTTP: entity tags, conditional and range requests, HEAD (RFC 9110)."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from email.utils import format_datetime
from typing import BinaryIO

from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from prompt_store.blobs import BlobStore
from service.cpu_threads import on_content_thread
from service.disconnects import while_connected
from service.problems import PRECONDITION_FAILED, Problem, ProblemError, problem_error
from service.registry.preconditions import entity_tags, etag

CHUNK_BYTES = 256 * 1024
_SINGLE_RANGE = re.compile(r"bytes=(\d{0,15})-(\d{0,15})")


@dataclass(frozen=True)
class Content:
    """A blob and how it is presented.

    Attributes:
        digest: Its digest, which is also its entity tag.
        size_bytes: Its size.
        created_at: When the name that points to it was created, UTC.
        filename: What a browser saves it as.
    """

    digest: str
    size_bytes: int
    created_at: datetime
    filename: str

    @property
    def headers(self) -> dict[str, str]:
        """Headers of every response about it."""
        return {
            "ETag": etag(self.digest),
            "Last-Modified": format_datetime(self.created_at, usegmt=True),
            "Accept-Ranges": "bytes",
            "Cache-Control": "no-cache",  # a name may point to other content later
            "Content-Disposition": f'attachment; filename="{self.filename}"',
        }


async def content_response(request: Request, blobs: BlobStore, content: Content) -> Response:
    """Answer GET or HEAD for a blob, all of which is checked before any of it is sent.

    As many are checked at once as there are processors; others wait.

    Args:
        request: For its method, preconditions and range.
        blobs: Where the blob is.
        content: What is asked for.

    Raises:
        ClientDisconnect: The client hung up.
        ProblemError: 400 for a malformed precondition, 412 for a failed `If-Match`, 416 for a range
            outside the content.
        PromptStoreError: The blob is missing or damaged.
    """
    early = _precondition(request, content)
    if early is not None:
        return early
    media_type = "application/octet-stream"
    if request.method == "HEAD":
        headers = {**content.headers, "Content-Length": str(content.size_bytes)}
        return Response(headers=headers, media_type=media_type)
    start, end = _range(request, content)
    headers = {**content.headers, "Content-Length": str(end - start)}
    partial = (start, end) != (0, content.size_bytes)
    if partial:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{content.size_bytes}"
    checking = on_content_thread(blobs.open_checked, content.digest)
    file = await while_connected(request, checking)
    return StreamingResponse(
        _read(file, start, end),
        status_code=206 if partial else 200,
        headers=headers,
        media_type=media_type,
        background=BackgroundTask(file.close),
    )


def _precondition(request: Request, content: Content) -> Response | None:
    wanted = entity_tags(request.headers, "If-Match")
    if wanted is not None and not wanted.match(content.digest):
        raise problem_error(
            412,
            "precondition-failed",
            PRECONDITION_FAILED,
            f"If-Match asks for {request.headers['if-match']}; the content is {content.digest}",
            field="If-Match",
        )
    known = entity_tags(request.headers, "If-None-Match")
    if known is not None and known.match(content.digest, weakly=True):
        return Response(status_code=304, headers=content.headers)
    return None


def _range(request: Request, content: Content) -> tuple[int, int]:
    """Start and end of the bytes to send; several ranges, or malformed ones, mean all of them."""
    size = content.size_bytes
    condition = request.headers.get("if-range")
    match = _SINGLE_RANGE.fullmatch(request.headers.get("range", "").replace(" ", ""))
    if match is None or match[0] == "bytes=-":
        return 0, size
    if condition is not None and condition not in (
        content.headers["ETag"],
        content.headers["Last-Modified"],
    ):
        return 0, size
    if match[1]:
        start, end = int(match[1]), min(int(match[2] or size), size - 1) + 1
        if match[2] and int(match[2]) < int(match[1]):
            return 0, size
    else:
        start, end = max(size - int(match[2]), 0), size
    if start >= size or start >= end:
        detail = f"range {match[0]} lies outside the {size} bytes of the content"
        raise ProblemError(
            Problem(
                416,
                "range-not-satisfiable",
                "The range lies outside the content",
                detail,
                {"field": "Range", "limit": size},
                {"Content-Range": f"bytes */{size}"},
            )
        )
    return start, end


def _read(file: BinaryIO, start: int, end: int) -> Iterator[bytes]:
    file.seek(start)
    while start < end:
        chunk = file.read(min(CHUNK_BYTES, end - start))
        if not chunk:
            return  # cut short since it was checked; the client sees an answer that is too short
        start += len(chunk)
        yield chunk
