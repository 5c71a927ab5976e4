"""The registry of tasks: labelled target images."""

from functools import partial

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool

from images.archive import ArchiveLimits, inspect_archive
from images.decoding import ImageLimits
from prompt_store.manifests import Page, TaskManifest
from service.bodies import ReceivedFile
from service.cpu_threads import on_archive_thread
from service.openapi import BINARY_BODY, CONTENT, created_or_same
from service.parts import Parts, PartsDep
from service.registry.params import (
    CursorQuery,
    LimitQuery,
    NamePath,
    NumberCursorQuery,
    VersionPath,
    VersionQuery,
)
from service.registry.preconditions import CONDITIONS
from service.registry.uploads import Store, as_expected, store_upload, stored_file

router = APIRouter(prefix="/v1/tasks", tags=["tasks"])


@router.put(
    "/{name}", status_code=201, responses=created_or_same(TaskManifest), openapi_extra=BINARY_BODY
)
async def put_task(
    name: NamePath, request: Request, response: Response, parts: PartsDep
) -> TaskManifest:
    """Validate and store a zip, tar or parquet file of labelled images as the next version.

    `If-Match` and `If-None-Match: *` as for prompts.
    """
    return await store_upload(
        request,
        response,
        f"/v1/tasks/{name}",
        partial(parts.tasks.check, name),
        partial(_inspect, parts, name),
        limit_bytes=parts.settings.max_task_bytes,
    )


@router.get("")
def list_tasks(
    parts: PartsDep, limit: LimitQuery = 100, cursor: CursorQuery = None
) -> Page[TaskManifest]:
    """The latest version of each task, in order of names."""
    return parts.tasks.list(cursor=cursor, limit=limit)


@router.get("/{name}")
def get_task(name: NamePath, parts: PartsDep) -> TaskManifest:
    """The latest version of a task."""
    return parts.tasks.get(name)


@router.get("/{name}/versions")
def list_versions(
    name: NamePath, parts: PartsDep, limit: LimitQuery = 100, cursor: NumberCursorQuery = None
) -> Page[TaskManifest]:
    """Every version of a task, oldest first."""
    return parts.tasks.versions(name, after=cursor or 0, limit=limit)


@router.get("/{name}/versions/{version}")
def get_version(name: NamePath, version: VersionPath, parts: PartsDep) -> TaskManifest:
    """One version of a task."""
    return parts.tasks.get(name, version)


@router.get("/{name}/content", **CONTENT)
@router.head("/{name}/content", **CONTENT)
async def get_content(
    name: NamePath, request: Request, parts: PartsDep, version: VersionQuery = None
) -> Response:
    """The archive as it was uploaded; conditional and range requests are understood."""
    manifest = await run_in_threadpool(parts.tasks.get, name, version)
    return await stored_file(request, manifest, manifest.format)


@router.delete("/{name}", status_code=204, openapi_extra=CONDITIONS)
def delete_task(name: NamePath, request: Request, parts: PartsDep) -> None:
    """Delete every version of a task; fits that were acknowledged keep its content."""
    with as_expected(request.headers) as expected:
        parts.tasks.delete(name, expected)


async def _inspect(parts: Parts, name: str, file: ReceivedFile) -> Store[TaskManifest]:
    settings = parts.settings
    max_image_bytes = settings.max_image_bytes
    limits = ArchiveLimits(max_bytes=settings.max_task_bytes, max_image_bytes=max_image_bytes)
    image_limits = ImageLimits(max_bytes=max_image_bytes, max_pixels=settings.max_image_pixels)
    inspect = partial(inspect_archive, file.path, limits, image_limits)
    summary = await on_archive_thread(inspect)
    return lambda expected: parts.tasks.put(
        name,
        file.path,
        format=summary.format,
        classes=summary.classes,
        counts=summary.counts,
        expected=expected,
    )
