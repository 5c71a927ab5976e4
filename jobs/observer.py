"""What a worker tells whoever measures it."""

from dataclasses import dataclass
from typing import Literal, Protocol

from jobs.records import FitId, OutcomeStatus

AttemptEnd = OutcomeStatus | Literal["overtaken", "shutdown", "unrecorded"]
"""How an attempt ended. Without an outcome of its own: a newer attempt took over, the worker was
told to exit, or the store would not take the end."""


@dataclass(frozen=True)
class StageRun:
    """One stage of an attempt, between two readings of the monotonic clock."""

    stage: str
    began_s: float
    ended_s: float


@dataclass(frozen=True)
class AttemptReport:
    """One attempt at a fit, after its end.

    Attributes:
        fit_id: The fit.
        attempt: Number of the attempt.
        method: The method that was asked for.
        end: How it ended.
        seconds: Duration from the claim to the recorded end.
        stages: What it spent them on, in order.
    """

    fit_id: FitId
    attempt: int
    method: str
    end: AttemptEnd
    seconds: float
    stages: tuple[StageRun, ...]


class FitObserver(Protocol):
    """Told on the event loop; must return at once."""

    def attempt_began(self) -> None:
        """The worker has claimed a fit."""

    def attempt_ended(self, report: AttemptReport) -> None:
        """The worker is done with it."""


class Unobserved:
    """Nobody measures."""

    def attempt_began(self) -> None:
        """Ignore it."""

    def attempt_ended(self, report: AttemptReport) -> None:
        """Ignore it."""
