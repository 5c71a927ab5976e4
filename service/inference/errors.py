"""Why a row, or a whole classification request, has no answer."""


class InferenceError(Exception):
    """Base of all errors raised by this package."""


class QueueFullError(InferenceError):
    """More images wait than the service may hold.

    Attributes:
        retry_after_s: When room is expected.
    """

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DeadlineExceededError(InferenceError):
    """The request's deadline passed before its answer was ready."""


class EngineFailedError(InferenceError):
    """The forward pass of this row's batch failed; the engine goes on with the next batch."""


class EngineStoppedError(InferenceError):
    """The engine is not running, because the service is starting or stopping."""


class ArtifactMismatchError(InferenceError):
    """The artifact was made for another backbone than the one that is loaded."""


class NothingToServeError(InferenceError):
    """The ensemble exists, yet the version asked for has not succeeded."""
