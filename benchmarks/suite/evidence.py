"""Tables of what the choice among a fit's candidates is worth. Nothing is chosen by them."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from scipy import stats

from benchmarks.reporting.markdown import table
from benchmarks.suite.intervals import Floats, compared, t_interval
from benchmarks.suite.panel import Panel
from benchmarks.suite.records import CellRecord, Place
from benchmarks.suite.variants import OURS, SIMPLE

LOGME = "logme"
SERVED = "served"
RULE = "lowest cross-fitted log-loss of learned, none, mean and LogME's source"

_EVIDENCE: dict[str, Callable[[Place], float]] = {
    "held-out accuracy": lambda place: place.accuracy,
    "cross-fitted accuracy": lambda place: place.cross_fit_accuracy,
    "cross-fitted log-loss": lambda place: -place.cross_fit_log_loss,
}


def choice_table(panels: Sequence[Panel]) -> str | None:
    """Test accuracy of each kind of candidate inside `hgprompt`'s fits: what choosing was worth.

    Beside each mean, what was served minus it, with a t-interval over tasks and wins-ties-losses.
    """
    rows: dict[str, list[str]] = {}
    columns: list[str] = []
    for panel in panels:
        by_kind = _candidate_accuracies(panel)
        if not by_kind:
            continue
        columns += [f"M = {panel.num_sources}", "served minus it"]
        for name, accuracies in by_kind.items():
            difference = "" if name == SERVED else compared(by_kind[SERVED] - accuracies)
            rows.setdefault(name, []).extend([f"{accuracies.mean():.3f}", difference])
    if not rows:
        return None
    return table(["candidate", *columns], [[name, *cells] for name, cells in rows.items()])


def _candidate_accuracies(panel: Panel) -> dict[str, Floats]:
    """Test accuracies averaged over seeds, one a task, by kind of candidate."""
    by_kind: dict[str, list[float]] = {}
    for task, seeds in panel.records.get(OURS, {}).items():
        evident = panel.records.get(LOGME, {}).get(task, {})
        cells = [
            (record, candidates_by_kind(record, evident[seed].chosen.source))
            for seed, record in seeds.items()
            if is_complete(record) and seed in evident
        ]
        for kind in cells[0][1] if cells else ():
            mean = np.mean([record.tested(places[kind]) for record, places in cells])
            by_kind.setdefault(kind, []).append(float(mean))
    # Rounded as in `Panel.accuracies`, so that a tie is one.
    return {kind: np.array(values).round(9) for kind, values in by_kind.items()}


def is_complete(record: CellRecord) -> bool:
    """Whether all the kinds of candidates are there; older fits left some out."""
    return {OURS, *SIMPLE} <= {place.method for place in record.leaderboard if not place.tuned}


def candidates_by_kind(record: CellRecord, evident: str | None) -> dict[str, Place]:
    """Return the untuned candidates that rules of choice would take.

    Args:
        record: A cell of `hgprompt`.
        evident: The source of the highest LogME.
    """
    untuned = [place for place in record.leaderboard if not place.tuned]
    # The leaderboard is best first, so the first of a method overwrites the others.
    first = {place.method: place for place in reversed(untuned)}
    by_evidence = next(p for p in untuned if p.method == "single" and p.source == evident)
    return {
        "no prompt": first["none"],
        "uniform mean": first["mean"],
        "learned ensemble": first[OURS],
        "source of the highest LogME": by_evidence,
        "best single held out": first["single"],
        "single source of the lowest cross-fitted log-loss": surest(
            *(p for p in untuned if p.method == "single")
        ),
        "best of all held out": untuned[0],
        RULE: surest(first[OURS], first["none"], first["mean"], by_evidence),
        "lowest cross-fitted log-loss of all": surest(*untuned),
        SERVED: record.chosen,
        "best of all on the test images": max(untuned, key=lambda p: p.test_accuracy),
    }


def surest(*places: Place) -> Place:
    """Return the candidate of the lowest cross-fitted log-loss."""
    return min(places, key=lambda place: place.cross_fit_log_loss)


def evidence_table(panels: Sequence[Panel]) -> str | None:
    """How well each kind of evidence ranks a fit's candidates: Spearman's rho with test accuracy.

    Averaged over the seeds of a task, then over tasks with a t-interval.
    """
    rows: dict[str, list[str]] = {name: [] for name in _EVIDENCE}
    columns: list[str] = []
    for panel in panels:
        tasks = list(panel.records.get(OURS, {}).values())
        by_name = {
            name: [
                rho for seeds in tasks if (rho := _mean_rho(seeds.values(), evidence)) is not None
            ]
            for name, evidence in _EVIDENCE.items()
        }
        if not all(by_name.values()):
            continue
        columns.append(f"M = {panel.num_sources}")
        for name, rhos in by_name.items():
            rows[name].append(str(t_interval(np.array(rhos))))
    if not columns:
        return None
    return table(["evidence", *columns], [[name, *cells] for name, cells in rows.items()])


def _mean_rho(records: Iterable[CellRecord], evidence: Callable[[Place], float]) -> float | None:
    """Mean over cells; None where neither evidence nor accuracies differ in any."""
    rhos: list[float] = []
    for record in records:
        untuned = [place for place in record.leaderboard if not place.tuned]
        values = [evidence(place) for place in untuned]
        accuracies = [place.test_accuracy for place in untuned]
        if len(set(values)) > 1 and len(set(accuracies)) > 1:
            found: Any = stats.spearmanr(values, accuracies)
            rhos.append(float(found.statistic))
    return float(np.mean(rhos)) if rhos else None
