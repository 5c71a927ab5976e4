"""What a fit handler sees of the world: its request, a way to report, and when to stop."""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Literal

from jobs.observer import StageRun
from jobs.records import FitAttempt, FitRequest, Progress

StopReason = Literal["ended", "overtaken", "shutdown"]
"""ended: cancelled, or declared dead; overtaken: a newer attempt exists; shutdown: of the worker"""


class FitContext:
    """Given to the handler, which runs in a thread of its own; every method may be called there.

    Attributes:
        request: What to fit.
        attempt: Number of this attempt, from 1.
    """

    def __init__(
        self,
        request: FitRequest,
        attempt: FitAttempt,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.request = request
        self.attempt = attempt.attempt
        self._monotonic = monotonic
        self._stop = threading.Event()
        self._stop_reason: StopReason | None = None
        self._lock = threading.Lock()
        self._stage: str | None = None
        self._stage_began_s = 0.0
        self._stages_left: dict[str, StageRun] = {}
        self._pending: dict[str, Progress] = {}

    def report_progress(
        self,
        stage: str,
        step: int | None = None,
        total: int | None = None,
        *,
        weights: Mapping[str, float] | None = None,
        objective: float | None = None,
    ) -> None:
        """Say how far the fit is. Cheap; call it as often as there is news.

        What readers see is throttled to the newest report of each stage.

        Args:
            stage: Short name of what is being done; a stage that was left is not entered again.
            step: Steps of the stage that are done.
            total: Steps of the stage.
            weights: Source name to weight.
            objective: The current total objective.

        Raises:
            ValueError: The stage was left earlier in this attempt.
        """
        with self._lock:
            self._enter(stage)
            self._pending[stage] = Progress(
                status="running",
                attempt=self.attempt,
                stage=stage,
                step=step,
                total=total,
                eta_s=self._eta_s(step, total),
                weights=None if weights is None else {k: float(v) for k, v in weights.items()},
                objective=None if objective is None else float(objective),
            )

    def should_stop(self) -> bool:
        """Whether to give up now: raise `FitStoppedError`, or return early in any other way."""
        return self._stop.is_set()

    @property
    def stop_reason(self) -> StopReason | None:
        """Why to give up; None while there is no reason to."""
        return self._stop_reason

    def stop(self, reason: StopReason) -> None:
        """Tell the handler to give up; the first reason stands."""
        with self._lock:
            self._stop_reason = self._stop_reason or reason
        self._stop.set()

    def take_reports(self) -> list[Progress]:
        """Remove and return what has been reported since, the newest of each stage, in order."""
        with self._lock:
            reports = list(self._pending.values())
            self._pending.clear()
        return reports

    def stage_runs(self) -> tuple[StageRun, ...]:
        """The stages so far, in order; the last one ends now, and no more may follow."""
        with self._lock:
            if self._stage is not None and self._stage not in self._stages_left:
                self._leave(self._stage)
            return tuple(self._stages_left.values())

    def _leave(self, stage: str) -> None:
        self._stages_left[stage] = StageRun(stage, self._stage_began_s, self._monotonic())

    def _enter(self, stage: str) -> None:
        if stage == self._stage:
            return
        if stage in self._stages_left:
            raise ValueError(f"stage {stage!r} was left before, on the way to {self._stage!r}")
        if self._stage is not None:
            self._leave(self._stage)
        self._stage = stage
        self._stage_began_s = self._monotonic()

    def _eta_s(self, step: int | None, total: int | None) -> float | None:
        if not step or total is None:
            return None
        elapsed_s = self._monotonic() - self._stage_began_s
        return round(elapsed_s * (total - step) / step, 3)
