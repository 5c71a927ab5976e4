"""A fit's live progress: bars on a terminal, a few lines in a log."""

import time
from collections.abc import Callable
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from client.events import OUTCOME
from client.replies import Event

LOG_INTERVAL_S = 10.0


class FitProgressView:
    """Shows the events of one fit as they come.

    Use it as a context manager around the waiting.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._progress = Progress(
            SpinnerColumn(finished_text=" "),
            TextColumn("{task.description:<24}", markup=False),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[eta]}", markup=False),
            console=console,
            disable=not console.is_terminal,
        )
        self._stage: tuple[int, str] | None = None
        self._task: TaskID | None = None
        self._logged_at_s = 0.0

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def update(self, event: Event) -> None:
        """Shows one event."""
        progress = event.progress
        if event.event == OUTCOME:
            self._finish_stage()
            return
        if progress.stage is None and progress.status == "running":
            return  # its first stage is about to follow
        stage = (progress.attempt or 1, progress.stage or progress.status)
        is_new = stage != self._stage
        if is_new:
            self._begin_stage(stage)
        if self._console.is_terminal:
            self._move_bar(event)
        elif is_new or self._clock() - self._logged_at_s >= LOG_INTERVAL_S:
            self._log(event)

    def _begin_stage(self, stage: tuple[int, str]) -> None:
        self._finish_stage()
        if self._stage is not None and stage[0] != self._stage[0]:
            self._console.print(Text(f"  attempt {stage[0]}: the worker was lost", "yellow"))
        self._stage = stage
        if self._console.is_terminal:
            self._task = self._progress.add_task(_words(stage[1]), total=None, eta="")

    def _finish_stage(self) -> None:
        if self._task is not None:
            total = self._progress.tasks[self._task].total or 1
            self._progress.update(self._task, total=total, completed=total, eta="")
            self._task = None

    def _move_bar(self, event: Event) -> None:
        assert self._task is not None  # noqa: S101  made by _begin_stage
        progress = event.progress
        eta = "" if progress.eta_s is None else f"{progress.eta_s:.0f} s left"
        self._progress.update(
            self._task, total=progress.total, completed=progress.step or 0, eta=eta
        )

    def _log(self, event: Event) -> None:
        self._logged_at_s = self._clock()
        progress = event.progress
        line = f"  {_words(progress.stage or progress.status)}"
        if progress.step is not None:
            line += f" {progress.step}" + (f"/{progress.total}" if progress.total else "")
        if progress.eta_s is not None:
            line += f", {progress.eta_s:.0f} s left"
        self._console.print(line)


def _words(stage: str) -> str:
    return stage.replace("_", " ")
