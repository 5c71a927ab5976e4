"""How ensembles look over HTTP."""

from datetime import datetime
from typing import Annotated, Any, Self

from pydantic import BaseModel, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from ensemble.options import FitOptions, Method
from jobs.records import (
    EnsembleRecord,
    FitError,
    FitRequest,
    Progress,
    SourceRef,
    Status,
    TaskRef,
)
from jobs.result_document import ResultDocument


class _DescribedByItsModel:
    """The JSON schema of a result document, which is shown as it is stored, whoever wrote it."""

    @classmethod
    def __get_pydantic_json_schema__(
        cls, _: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return handler(ResultDocument.__pydantic_core_schema__)


class EnsembleView(BaseModel):
    """One version of one ensemble.

    Attributes:
        digest: sha256 of the artifact's bytes, once the fit has succeeded.
        attempt: The newest attempt; 0 while none has begun.
        progress: Where a running fit stands.
        error: Why it failed or was declared dead.
        result: What a fit that succeeded found out; in lists it is left out.
    """

    name: str
    version: int
    status: Status
    digest: str | None = None
    backbone_digest: str
    task: TaskRef
    sources: tuple[SourceRef, ...]
    method: Method
    options: FitOptions
    seed: int
    attempt: int = 0
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    progress: Progress | None = None
    error: FitError | None = None
    result: Annotated[dict[str, Any], _DescribedByItsModel] | None = None

    @classmethod
    def of_record(cls, record: EnsembleRecord) -> Self:
        """Show a fit as it stands."""
        outcome = record.outcome
        return cls(
            **_request_fields(record),
            status=record.status,
            digest=record.digest,
            attempt=record.attempt,
            started_at=outcome.started_at if outcome else None,
            finished_at=outcome.finished_at if outcome else None,
            progress=record.progress,
            error=outcome.error if outcome else None,
            result=record.result,
        )

    @classmethod
    def of_request(cls, request: FitRequest) -> Self:
        """Show a fit that was acknowledged just now."""
        return cls(**_request_fields(request), status="queued")


def _request_fields(request: FitRequest) -> dict[str, Any]:
    return {name: getattr(request, name) for name in FitRequest.model_fields}


class EnsemblePage(BaseModel):
    """One page of ensembles, in order of names."""

    items: list[EnsembleView]
    next_cursor: str | None
