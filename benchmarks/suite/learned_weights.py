"""The table of what the learned weights are worth: the learned ensemble itself, served or not."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.reporting.markdown import table
from benchmarks.suite.evidence import LOGME, RULE, candidates_by_kind, is_complete, surest
from benchmarks.suite.intervals import Floats, compared
from benchmarks.suite.panel import Panel
from benchmarks.suite.records import CellRecord
from benchmarks.suite.variants import OURS

H_ENSEMBLE = "h_ensemble"
_ABSENT = "n/a"


@dataclass(frozen=True)
class _Fit:
    """A fit of `hgprompt`, and those of two others to the same images with the same sources."""

    ours: CellRecord
    h_ensemble: CellRecord | None
    logme: CellRecord | None


def learned_weights_table(panels: Sequence[Panel]) -> str | None:
    """The learned ensemble inside `hgprompt`'s fits, whatever they served, minus what it is beside.

    The last row holds the rule of choice, by log-loss alone, against the same rule with the
    candidate of `h_ensemble` in the learned one's place. Nothing is tuned. Seeds averaged, with
    t-intervals over tasks and wins-ties-losses; rows that no fit has are left out.
    """
    columns = {panel.num_sources: fits for panel in panels if (fits := _fits(panel))}
    rows = [[name, *(_entry(fits, of) for fits in columns.values())] for name, of in _ROWS.items()]
    rows = [row for row in rows if set(row[1:]) - {_ABSENT}]
    header = ["the learned ensemble minus", *(f"M = {number}" for number in columns)]
    return table(header, rows) if rows else None


def _fits(panel: Panel) -> list[list[_Fit]]:
    """All fits of `hgprompt`, task by task."""
    theirs = [panel.records.get(name, {}) for name in (H_ENSEMBLE, LOGME)]
    return [
        [
            _Fit(ours, *(by_task.get(task, {}).get(seed) for by_task in theirs))
            for seed, ours in seeds.items()
        ]
        for task, seeds in panel.records.get(OURS, {}).items()
    ]


def _entry(by_task: list[list[_Fit]], difference: Callable[[_Fit], float | None]) -> str:
    means: list[float] = []
    for fits in by_task:
        found = [value for fit in fits if (value := difference(fit)) is not None]
        if found:
            means.append(float(np.mean(found)))
    # Rounded as in `Panel.accuracies`, so that a tie is one.
    differences: Floats = np.array(means).round(9)
    return compared(differences) if means else _ABSENT


def _minus(fit: _Fit, other: CellRecord | None, method: str) -> float | None:
    """The learned ensemble minus the untuned candidate of a method in this or another fit."""
    ours, theirs = fit.ours.untuned(OURS), other and other.untuned(method)
    if ours is None or other is None or theirs is None:
        return None
    return fit.ours.tested(ours) - other.tested(theirs)


def _rule_minus_rule(fit: _Fit) -> float | None:
    theirs = fit.h_ensemble and fit.h_ensemble.untuned(H_ENSEMBLE)
    if fit.h_ensemble is None or theirs is None or fit.logme is None or not is_complete(fit.ours):
        return None
    kinds = candidates_by_kind(fit.ours, fit.logme.chosen.source)
    simple = (kinds[name] for name in ("no prompt", "uniform mean", "source of the highest LogME"))
    other = surest(theirs, *simple)
    of_other = fit.h_ensemble if other is theirs else fit.ours
    return fit.ours.tested(kinds[RULE]) - of_other.tested(other)


_ROWS: dict[str, Callable[[_Fit], float | None]] = {
    "`h_ensemble`": lambda fit: _minus(fit, fit.h_ensemble, H_ENSEMBLE),
    "`mean`": lambda fit: _minus(fit, fit.ours, "mean"),
    "`none`": lambda fit: _minus(fit, fit.ours, "none"),
    "rule minus rule": _rule_minus_rule,
}
