"""The registry of tasks: labelled target images."""

import asyncio

from fastapi import APIRouter, Request, Response

from images.archive import ArchiveLimits, inspect_archive
from images.decoding import ImageLimits
from prompt_store.manifests import Page, TaskManifest
from service.bodies import ReceivedFile, received_file
from service.content import Content, content_response
from service.openapi import BINARY_BODY, BINARY_RESPONSE, CREATED_OR_SAME
from service.params import CursorQuery, LimitQuery, NamePath, VersionPath, VersionQuery
from service.parts import Parts, PartsDep

router = APIRouter(prefix="/v1/tasks", tags=["tasks"])


@router.put("/{name}", status_code=201, responses=CREATED_OR_SAME, openapi_extra=BINARY_BODY)
async def put_task(
    name: NamePath, request: Request, response: Response, parts: PartsDep
) -> TaskManifest:
    """Validate and store a zip, tar or parquet file of labelled images as the next version."""
    settings = parts.settings
    async with received_file(
        request,
        settings.upload_dir,
        limit_bytes=settings.max_task_bytes,
        idle_timeout_s=settings.body_idle_timeout_s,
    ) as file:
        manifest, created = await asyncio.to_thread(_store, parts, name, file)
    response.status_code = 201 if created else 200
    response.headers["Location"] = f"/v1/tasks/{name}/versions/{manifest.version}"
    return manifest


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
def list_versions(name: NamePath, parts: PartsDep) -> Page[TaskManifest]:
    """Every version of a task, oldest first."""
    return Page(items=parts.tasks.versions(name), next_cursor=None)


@router.get("/{name}/versions/{version}")
def get_version(name: NamePath, version: VersionPath, parts: PartsDep) -> TaskManifest:
    """One version of a task."""
    return parts.tasks.get(name, version)


@router.get("/{name}/content", response_class=Response, responses=BINARY_RESPONSE)
@router.head("/{name}/content", response_class=Response, responses=BINARY_RESPONSE)
def get_content(
    name: NamePath, request: Request, parts: PartsDep, version: VersionQuery = None
) -> Response:
    """The archive as it was uploaded; conditional and range requests are understood."""
    manifest = parts.tasks.get(name, version)
    content = Content(
        digest=manifest.digest,
        size_bytes=manifest.size_bytes,
        created_at=manifest.created_at,
        filename=f"{name}-{manifest.version}.{manifest.format}",
    )
    return content_response(request, parts.blobs, content, parts.settings.upload_dir)


@router.delete("/{name}", status_code=204)
def delete_task(name: NamePath, parts: PartsDep) -> None:
    """Delete every version of a task; fits that were acknowledged keep its content."""
    parts.tasks.delete(name)


def _store(parts: Parts, name: str, file: ReceivedFile) -> tuple[TaskManifest, bool]:
    settings = parts.settings
    summary = inspect_archive(
        file.path,
        ArchiveLimits(max_bytes=settings.max_task_bytes, max_image_bytes=settings.max_image_bytes),
        ImageLimits(max_bytes=settings.max_image_bytes, max_pixels=settings.max_image_pixels),
    )
    return parts.tasks.put(
        name, file.path, format=summary.format, classes=summary.classes, counts=summary.counts
    )
