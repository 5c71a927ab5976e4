"""The registry of source prompts."""

from functools import partial

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool

from prompt_store.codec import PromptLimits
from prompt_store.manifests import Page, PromptManifest
from prompt_store.uploads import read_upload
from service.bodies import ReceivedFile
from service.cpu_threads import on_cpu_thread
from service.openapi import BINARY_BODY, CONTENT, created_or_same
from service.parts import Parts, PartsDep
from service.problems import problem_error
from service.registry.params import (
    BackboneQuery,
    CursorQuery,
    LabelQuery,
    LimitQuery,
    NamePath,
    NumberCursorQuery,
    VersionPath,
    VersionQuery,
)
from service.registry.preconditions import CONDITIONS
from service.registry.uploads import Store, as_expected, store_upload, stored_file

router = APIRouter(prefix="/v1/prompts", tags=["prompts"])


@router.put(
    "/{name}", status_code=201, responses=created_or_same(PromptManifest), openapi_extra=BINARY_BODY
)
async def put_prompt(
    name: NamePath, request: Request, response: Response, parts: PartsDep
) -> PromptManifest:
    """Validate and store a prompt file as the next version; the same bytes again change nothing.

    A safetensors file of ours or in the layout of VPT, or a zip file with the
    `adapter_model.safetensors` and `adapter_config.json` of PEFT; the last two are converted.

    `If-None-Match: *` stores it only under a name that is free, `If-Match` only over the latest
    version, whose content has that `ETag`; else 412.
    """
    return await store_upload(
        request,
        response,
        f"/v1/prompts/{name}",
        partial(parts.prompts.check, name),
        partial(_inspect, parts, name),
        limit_bytes=parts.settings.max_prompt_bytes,
    )


@router.get("")
def list_prompts(
    parts: PartsDep,
    label: LabelQuery = None,
    backbone: BackboneQuery = None,
    limit: LimitQuery = 100,
    cursor: CursorQuery = None,
) -> Page[PromptManifest]:
    """The latest version of each prompt, in order of names."""
    if backbone == parts.backbone.name:  # a prompt need not name it, and may call it otherwise
        backbone = parts.backbone.digest
    return parts.prompts.list(cursor=cursor, limit=limit, label=label, backbone=backbone)


@router.get("/{name}")
def get_prompt(name: NamePath, parts: PartsDep) -> PromptManifest:
    """The latest version of a prompt."""
    return parts.prompts.get(name)


@router.get("/{name}/versions")
def list_versions(
    name: NamePath, parts: PartsDep, limit: LimitQuery = 100, cursor: NumberCursorQuery = None
) -> Page[PromptManifest]:
    """Every version of a prompt, oldest first."""
    return parts.prompts.versions(name, after=cursor or 0, limit=limit)


@router.get("/{name}/versions/{version}")
def get_version(name: NamePath, version: VersionPath, parts: PartsDep) -> PromptManifest:
    """One version of a prompt."""
    return parts.prompts.get(name, version)


@router.get("/{name}/content", **CONTENT)
@router.head("/{name}/content", **CONTENT)
async def get_content(
    name: NamePath, request: Request, parts: PartsDep, version: VersionQuery = None
) -> Response:
    """The bytes of a prompt file; conditional and range requests are understood."""
    manifest = await run_in_threadpool(parts.prompts.get, name, version)
    return await stored_file(request, manifest, "safetensors")


@router.delete("/{name}", status_code=204, openapi_extra=CONDITIONS)
def delete_prompt(name: NamePath, request: Request, parts: PartsDep) -> None:
    """Delete every version of a prompt that no ensemble depends on.

    A fit that is asked for at the same moment may be accepted too; it keeps the prompt's content.
    """
    dependents = [str(fit_id) for fit_id in parts.ensembles.dependents(name)]
    if dependents:
        raise problem_error(
            409,
            "prompt-in-use",
            "Ensembles depend on the prompt",
            f"prompt {name} is a source of {', '.join(dependents)}",
            field="name",
            ensembles=dependents,
        )
    with as_expected(request.headers) as expected:
        parts.prompts.delete(name, expected)


async def _inspect(parts: Parts, name: str, file: ReceivedFile) -> Store[PromptManifest]:
    limits = PromptLimits(max_bytes=parts.settings.max_prompt_bytes)
    data, prompt = await on_cpu_thread(read_upload, file.path, limits, parts.backbone_shape)
    return partial(parts.prompts.put, name, data, prompt)
