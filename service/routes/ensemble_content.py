"""What a fit produced: the artifact and the report."""

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse

from jobs.records import EnsembleRecord, FitId
from service.inference.errors import NothingToServeError
from service.openapi import CONTENT
from service.parts import Parts, PartsDep
from service.registry.content import Content, content_response
from service.registry.params import NamePath, VersionQuery
from service.report.page import render_report

router = APIRouter(prefix="/v1/ensembles", tags=["ensembles"])

REPORT_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:",
    "X-Content-Type-Options": "nosniff",
}


@router.get("/{name}/content", **CONTENT)
@router.head("/{name}/content", **CONTENT)
async def get_content(
    name: NamePath, request: Request, parts: PartsDep, version: VersionQuery = None
) -> Response:
    """The artifact as safetensors; conditional and range requests are understood."""
    content = await run_in_threadpool(_artifact, parts, name, version)
    return await content_response(request, parts.blobs, content)


@router.get("/{name}/report", response_class=HTMLResponse)
def get_report(name: NamePath, parts: PartsDep, version: VersionQuery = None) -> HTMLResponse:
    """One self-contained page about a fit that succeeded."""
    record = _finished(parts, name, version, with_result=True)
    return HTMLResponse(render_report(record), headers=REPORT_HEADERS)


def _artifact(parts: Parts, name: str, version: int | None) -> Content:
    record = _finished(parts, name, version, with_result=False)
    digest = str(record.digest)
    return Content(
        digest=digest,
        size_bytes=parts.blobs.size_bytes(digest),
        created_at=record.created_at,
        filename=f"{name}-{record.version}.safetensors",
    )


def _finished(parts: Parts, name: str, version: int | None, *, with_result: bool) -> EnsembleRecord:
    fit_id = parts.ensembles.current(name) if version is None else FitId(name, version)
    record = parts.ensembles.record(fit_id, with_result=with_result)
    if record.digest is None:
        raise NothingToServeError(f"ensemble {fit_id} is {record.status}; it has no artifact")
    return record
