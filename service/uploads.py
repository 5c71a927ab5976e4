"""What the registries of prompts and of tasks have in common over HTTP: files in, files out."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import Response

from prompt_store.manifests import Manifest
from service.bodies import ReceivedFile, received_file
from service.content import Content, content_response
from service.parts import parts_of

_Manifest = TypeVar("_Manifest", bound=Manifest)


async def store_upload(
    request: Request,
    response: Response,
    path: str,
    store: Callable[[ReceivedFile], tuple[_Manifest, bool]],
    *,
    limit_bytes: int,
) -> _Manifest:
    """Answer `PUT …/{name}`: 201 for a new version, 200 for the one that has these bytes.

    Args:
        request: Its body is the file.
        response: Gets the status and `Location`.
        path: Of the name that the file is stored under.
        store: Checks and stores the file, on a thread.
        limit_bytes: The largest file.

    Raises:
        ProblemError, ClientDisconnect: As `received_file`, and what `store` raises.
    """
    settings = parts_of(request).settings
    async with received_file(
        request,
        settings.upload_dir,
        limit_bytes=limit_bytes,
        idle_timeout_s=settings.body_idle_timeout_s,
    ) as file:
        manifest, created = await asyncio.to_thread(store, file)
    response.status_code = 201 if created else 200
    response.headers["Location"] = f"{path}/versions/{manifest.version}"
    return manifest


def stored_file(request: Request, manifest: Manifest, suffix: str) -> Response:
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
    return content_response(request, parts.blobs, content, parts.settings.upload_dir)
