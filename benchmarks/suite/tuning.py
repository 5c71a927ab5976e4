"""The table of what tuning is worth, from the leaderboards of the fits."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.reporting.markdown import table
from benchmarks.suite.intervals import Floats, compared
from benchmarks.suite.panel import Panel, Seeds
from benchmarks.suite.records import CellRecord, Place

_ABSENT = "n/a"


@dataclass(frozen=True)
class _Tuned:
    """A fit with a tuned prompt: test accuracies of that prompt and of the one it started from."""

    accuracy: float
    start: float
    was_served: bool

    @property
    def gain(self) -> float:
        return self.accuracy - self.start


def tuning_table(panels: Sequence[Panel]) -> str | None:
    """For every variant of every panel: how often tuning gave a prompt, and what that is worth.

    Seeds averaged, with t-intervals over tasks and wins-ties-losses.
    """
    rows: list[list[str]] = []
    of_all_panels: set[str] = set()
    for panel in panels:
        for variant, by_task in panel.records.items():
            fits = {task: _tuned_fits(seeds.values()) for task, seeds in by_task.items()}
            if variant in of_all_panels or not any(fits.values()):
                continue
            name = f"{variant}, M = {panel.num_sources}"
            if not any(_uses_sources(seeds) for seeds in by_task.values()):
                of_all_panels.add(variant)
                name = variant
            rows.append([name, *_entries(fits, {t: len(seeds) for t, seeds in by_task.items()})])
    if not rows:
        return None
    header = ["method", "tuned in", "minus its start", "served in", "served minus its start"]
    return table(header, rows)


def _entries(fits: dict[str, list[_Tuned]], num_fits: dict[str, int]) -> list[str]:
    number, total = sum(map(len, fits.values())), sum(num_fits.values())
    served = {task: [fit for fit in tuned if fit.was_served] for task, tuned in fits.items()}
    gains = [float(np.mean([fit.gain for fit in tuned])) for tuned in fits.values() if tuned]
    worth = [sum(fit.gain for fit in served[task]) / num_fits[task] for task in fits]
    return [
        f"{number} of {total}",
        compared(_rounded(gains)),
        str(sum(map(len, served.values()))),
        compared(_rounded(worth)),
    ]


def _tuned_fits(records: Iterable[CellRecord]) -> list[_Tuned]:
    found = [(record, _tuned(record)) for record in records]
    return [
        _Tuned(record.tested(tuned), record.tested(_start(record, tuned)), record.chosen.tuned)
        for record, tuned in found
        if tuned is not None
    ]


def _tuned(record: CellRecord) -> Place | None:
    """The tuned candidate; a fit tunes one at most."""
    return next((place for place in record.leaderboard if place.tuned), None)


def _start(record: CellRecord, tuned: Place) -> Place:
    """The candidate that it was before."""
    return next(
        place
        for place in record.leaderboard
        if not place.tuned and (place.method, place.source) == (tuned.method, tuned.source)
    )


def _uses_sources(seeds: Seeds) -> bool:
    return any(record.cell.num_sources for record in seeds.values())


def _rounded(values: Sequence[float]) -> Floats:
    """As in `Panel.accuracies`, so that a tie is one."""
    return np.array(values, dtype=np.float64).round(9)
