"""Everything that this package raises on purpose, under one base class."""

from collections.abc import Sequence

from prompt_store.errors import StoreUnavailableError


class JobsError(Exception):
    """Base of every error of this package."""


class FitIdError(JobsError, ValueError):
    """A text that should name a fit as `name@version` does not."""


class FitNotFoundError(JobsError):
    """No such ensemble, or no such version of it."""


class EnsembleDeletedError(FitNotFoundError):
    """The ensemble was deleted: unlike one that is merely not found, the store says so."""


# A folder whose volume is not mounted looks like an empty store, so a fit that was there a moment
# ago and is not there now means the same as a store that answers with an error.
STORE_AWAY = (StoreUnavailableError, FitNotFoundError)


class FitEndedError(JobsError):
    """The fit already has an outcome, so it can be neither run, finished nor cancelled."""


class FitsUnfinishedError(JobsError):
    """Fits of an ensemble have not ended, so it cannot be deleted.

    Attributes:
        field: What names the ensemble in a request.
        fits: Each as `name@version`.
    """

    field = "name"

    def __init__(self, name: str, fits: Sequence[str]) -> None:
        super().__init__(
            f"ensemble {name} has fits that are queued or running: {', '.join(fits)}; "
            "cancel them first, or wait until they have ended"
        )
        self.fits = tuple(fits)


class NotRecordedError(JobsError):
    """The store was away, or full, when an outcome was to be recorded."""


class InputsUnavailableError(JobsError):
    """What a fit is computed from could not be read or unpacked now; running it later may help."""


class FitHeldError(JobsError):
    """Another worker is running the fit at this moment."""


class FenceLostError(JobsError):
    """A newer attempt exists; whatever this older one still does must not count."""


class QueueUnavailableError(JobsError):
    """Redis did not answer in time; nothing durable is lost, and the sweeper will catch up."""


class WorkerBrokenError(JobsError):
    """A fit left the worker's process unable to run another; the message says how."""


class HandlerStuckError(JobsError):
    """A fit's handler did not stop when it was told to, so its thread goes on."""


class FitRefusedError(JobsError):
    """A fit handler raises this to end its fit as `failed` with a message meant for the user.

    Attributes:
        slug: Short stable name of the problem, e.g. `task-too-small`; it ends the error's `type`.
        title: The same in a few words.
        detail: What was wrong with which value, and the limit.
    """

    def __init__(self, slug: str, title: str, detail: str) -> None:
        super().__init__(detail)
        self.slug = slug
        self.title = title
        self.detail = detail


class FitStoppedError(JobsError):
    """A fit handler raises this when it returns early because `should_stop()` became true."""
