"""What the registries of prompts and of tasks have in common over HTTP: files in, files out."""

import asyncio
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from typing import Any, TypeVar

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response

from prompt_store.errors import PreconditionFailedError
from prompt_store.manifests import Manifest
from prompt_store.version_series import Expected, whatever
from service.bodies import ReceivedFile, received_file
from service.disconnects import while_connected
from service.parts import parts_of
from service.registry.content import Content, content_response
from service.registry.preconditions import lost, optional_condition

_Manifest = TypeVar("_Manifest", bound=Manifest)
Store = Callable[[Expected], tuple[_Manifest, bool]]
"""Stores a file; the manifest, and whether it is a new version."""


async def store_upload(
    request: Request,
    response: Response,
    path: str,
    check: Callable[[Expected], None],
    inspect: Callable[[ReceivedFile], Coroutine[Any, Any, Store[_Manifest]]],
    *,
    limit_bytes: int,
) -> _Manifest:
    """Answer `PUT …/{name}`: 201 for a new version, 200 for the one that has these bytes.

    Args:
        request: Its body is the file.
        response: Gets the status and `Location`.
        path: Of the name that the file is stored under.
        check: Raises `PreconditionFailedError` if the name is not as the request expects it.
        inspect: Judges the file, and is cancelled when the client hangs up; returns what stores
            the file then, on a thread, and raises as `check`.
        limit_bytes: The largest file.

    Raises:
        ProblemError, ClientDisconnect: As `received_file` and `as_expected`, and what `inspect`
            and what it returns raise.
    """
    settings = parts_of(request).settings
    with as_expected(request.headers) as expected:
        await asyncio.to_thread(check, expected)
        async with received_file(
            request,
            settings.upload_dir,
            limit_bytes=limit_bytes,
            idle_timeout_s=settings.body_idle_timeout_s,
        ) as file:
            store = await while_connected(request, inspect(file))
            manifest, created = await asyncio.to_thread(store, expected)
    response.status_code = 201 if created else 200
    response.headers["Location"] = f"{path}/versions/{manifest.version}"
    return manifest


@contextmanager
def as_expected(headers: Headers) -> Generator[Expected]:
    """Give the condition that a request sets for its change, by `If-Match` or `If-None-Match`.

    Raises:
        ProblemError: 400, a header is malformed; 412, what is done inside did not meet it.
    """
    condition = optional_condition(headers)
    if condition is None:
        yield whatever
        return
    try:
        yield condition
    except PreconditionFailedError as error:
        raise lost(error, condition) from error


async def stored_file(request: Request, manifest: Manifest, suffix: str) -> Response:
    """Answer GET or HEAD of `…/{name}/content`; as `content_response`.

    Args:
        request: For its method, preconditions and range.
        manifest: Of the file.
        suffix: What the name of the file ends in.
    """
    parts = parts_of(request)
    content = Content(
        digest=manifest.digest,
        size_bytes=manifest.size_bytes,
        created_at=manifest.created_at,
        filename=f"{manifest.name}-{manifest.version}.{suffix}",
    )
    return await content_response(request, parts.blobs, content)
