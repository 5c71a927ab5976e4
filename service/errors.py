"""From the errors of every package to problems; the one place where that is decided."""

import errno
import math
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from images import errors as images
from jobs import errors as jobs
from prompt_store import errors as store
from prompt_store.splits import InvalidSplitError
from service.inference import errors as inference
from service.problems import PRECONDITION_FAILED, Problem, ProblemError

RETRY_S = 5
INTERNAL = Problem(500, "internal", "Internal error", "the service failed; its log has the details")


@dataclass(frozen=True)
class Kind:
    """What a class of errors becomes; the occurrence's message becomes the detail.

    Attributes:
        status: HTTP status.
        slug: Last part of the problem's type.
        title: The same for every occurrence.
        field: What was wrong, if that is the same for every occurrence and the error itself, which
            knows nothing of HTTP, does not tell.
    """

    status: int
    slug: str
    title: str
    field: str | None = None


KINDS: dict[type[Exception], Kind] = {
    store.PromptTooLargeError: Kind(413, "prompt-too-large", "The prompt file is too large"),
    store.InvalidPromptError: Kind(422, "invalid-prompt", "The prompt file was refused"),
    store.NameInvalidError: Kind(422, "invalid-name", "A name or reference is malformed"),
    store.NotFoundError: Kind(404, "not-found", "There is no such thing"),
    store.PreconditionFailedError: Kind(412, "precondition-failed", PRECONDITION_FAILED),
    InvalidSplitError: Kind(422, "invalid-split", "The requests cannot be split like this"),
    store.ConflictError: Kind(409, "conflict", "The request contradicts what is stored"),
    store.IdempotencyMismatchError: Kind(
        422,
        "idempotency-key-reused",
        "The idempotency key belongs to another request",
        "Idempotency-Key",
    ),
    store.IdempotencyInProgressError: Kind(
        409,
        "idempotency-in-progress",
        "The first request with this key is not answered yet",
        "Idempotency-Key",
    ),
    store.StoreFullError: Kind(507, "store-full", "The store has no room left"),
    store.StoreUnavailableError: Kind(503, "store-unavailable", "The store cannot be reached"),
    store.DigestMismatchError: Kind(500, "corrupt-content", "Stored content is damaged"),
    store.CorruptDocumentError: Kind(500, "corrupt-document", "A stored document is damaged"),
    jobs.FitNotFoundError: Kind(404, "ensemble-not-found", "There is no such ensemble"),
    jobs.FitIdError: Kind(422, "invalid-name", "A name or reference is malformed"),
    jobs.FitEndedError: Kind(409, "fit-ended", "The fit has already ended"),
    jobs.FitsUnfinishedError: Kind(409, "fits-unfinished", "Fits of the ensemble have not ended"),
    jobs.QueueUnavailableError: Kind(503, "queue-unavailable", "The queue cannot be reached"),
    images.ImageDecodeError: Kind(415, "not-an-image", "The image cannot be read", "image"),
    images.ImageTooLargeError: Kind(413, "image-too-large", "The image is too large"),
    images.ArchiveFormatError: Kind(
        415, "not-an-archive", "The body is not a known archive", "body"
    ),
    images.ArchiveError: Kind(422, "invalid-task", "The labelled images were refused", "body"),
    inference.QueueFullError: Kind(429, "queue-full", "Too many images are waiting"),
    inference.DeadlineExceededError: Kind(504, "deadline-exceeded", "The deadline has passed"),
    inference.NoMemoryError: Kind(503, "no-memory", "The service is short of memory"),
    inference.EngineFailedError: Kind(500, "forward-failed", "The forward pass failed"),
    inference.NotFiniteError: Kind(422, "not-finite", "The image gives no finite result"),
    inference.EngineStoppedError: Kind(503, "not-serving", "The service is not serving"),
    inference.EngineUnavailableError: Kind(
        503, "engine-unavailable", "The engine is being restarted"
    ),
    inference.ArtifactMismatchError: Kind(
        409, "backbone-mismatch", "The ensemble was made for another backbone"
    ),
    inference.NothingToServeError: Kind(
        409, "ensemble-not-ready", "The ensemble has no finished version to serve"
    ),
}


def problem_of(error: Exception) -> Problem:
    """Return the problem for any exception; `INTERNAL`, without its message, for unknown ones."""
    if isinstance(error, ProblemError):
        return error.problem
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Problem(507, "disk-full", "The disk is full", "no room to spool the body")
    kind = next((KINDS[cls] for cls in type(error).__mro__ if cls in KINDS), None)
    if kind is None:
        return INTERNAL
    members = {"field": kind.field} | _members(error)
    return Problem(kind.status, kind.slug, kind.title, str(error), members, _headers(error, kind))


def _members(error: Exception) -> dict[str, Any]:
    """The offending value's name, its limit and what stands in the way, where the error tells."""
    told = {member: getattr(error, member, None) for member in ("field", "limit", "fits")}
    return {member: value for member, value in told.items() if value is not None}


def _headers(error: Exception, kind: Kind) -> dict[str, str]:
    if isinstance(error, inference.QueueFullError | store.IdempotencyInProgressError):
        return {"Retry-After": str(math.ceil(error.retry_after_s))}
    return {"Retry-After": str(RETRY_S)} if kind.status == HTTPStatus.SERVICE_UNAVAILABLE else {}
