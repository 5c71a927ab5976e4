"""Why a row, or a whole classification request, has no answer."""

from typing import Literal

Scarce = Literal["queue", "share", "bytes"]
"""What ran out: the queue, an ensemble's share of it, or the memory for bodies."""


class InferenceError(Exception):
    """Base of all errors raised by this package."""


class QueueFullError(InferenceError):
    """More images wait than the service may hold.

    Attributes:
        retry_after_s: When room is expected.
        scarce: What ran out.
        limit: How much of it there is.
    """

    def __init__(self, message: str, *, retry_after_s: float, scarce: Scarce, limit: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.scarce = scarce
        self.limit = limit


class DeadlineExceededError(InferenceError):
    """The request's deadline passed before its answer was ready.

    Attributes:
        limit: After how many seconds that was, if it is known.
    """

    def __init__(self, message: str, *, limit: float | None = None) -> None:
        super().__init__(message)
        self.limit = limit


def too_late(deadline_s: float) -> DeadlineExceededError:
    """Return the error for a request that took longer than `request_deadline_s`, in seconds."""
    return DeadlineExceededError(
        f"no answer within the deadline of {deadline_s:g} s (request_deadline_s)", limit=deadline_s
    )


class NoMemoryError(InferenceError):
    """There is no memory for this row's pixels now; the other rows have theirs."""


class EngineFailedError(InferenceError):
    """The forward pass failed for this row, even alone; the engine goes on with the others."""


class NotFiniteError(InferenceError):
    """This row's own pixels made its probabilities NaN; its batch-mates are not affected."""


class EngineStoppedError(InferenceError):
    """The engine is not running, because the service is starting or stopping."""


class ArtifactMismatchError(InferenceError):
    """The artifact was made for another backbone than the one that is loaded."""


class NothingToServeError(InferenceError):
    """The ensemble exists, yet the version asked for has not succeeded."""


class EngineUnavailableError(InferenceError):
    """The engine's process is not there, or went away before it answered."""
