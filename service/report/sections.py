"""What the report shows and in which order; a section without content is left out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from service.report.charts.curves import Curve, curve
from service.report.charts.matrices import (
    MAX_DRAWN,
    MAX_LABELLED,
    Matrix,
    confusion_matrix,
    cosine_matrix,
)
from service.report.charts.numbers import number
from service.report.charts.reliability import reliability
from service.report.charts.rows import (
    RowChart,
    ablation_chart,
    gap_chart,
    leaderboard_chart,
    timing_chart,
    weight_chart,
)
from service.report.charts.scatter import scatter
from service.report.data import Objective, ReportData
from service.report.tables import (
    ClassRecall,
    Confusion,
    Pair,
    largest_weights,
    score_table,
    strongest_conflicts,
    worst_classes,
    worst_confusions,
)


@dataclass(frozen=True)
class Section:
    """One section; the template of the same name draws its content."""

    name: str
    heading: str
    content: Any


@dataclass(frozen=True)
class Learning:
    """What the optimisation reached, and how."""

    objective: Objective | None
    curves: tuple[Curve, ...]


@dataclass(frozen=True)
class Ablations:
    """The differences to the learned ensemble, and the weights behind them."""

    chart: RowChart | None
    rows: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class Conflicts:
    """The sources' gradients against each other; the matrix is None where there are too many."""

    matrix: Matrix | None
    pairs: tuple[Pair, ...]


@dataclass(frozen=True)
class Confusions:
    """What was taken for what; the matrix is None where there are too many classes."""

    matrix: Matrix | None
    confusions: tuple[Confusion, ...]
    classes: tuple[ClassRecall, ...]


def sections(data: ReportData) -> list[Section]:
    """All sections that have content."""
    validation = data.validation
    possible = (
        (
            "leaderboard",
            "Leaderboard",
            leaderboard_chart(data.leaderboard or (), data.chosen_label),
        ),
        ("weights", "Weights \N{GREEK SMALL LETTER ALPHA}", weight_chart(data.weights or {})),
        ("ablations", "Ablations", _ablations(data)),
        ("sources", "Sources alone", score_table(data)),
        ("screening", "Screening", data.screening),
        ("conflict", "Gradient conflict", _conflicts(data)),
        ("objective", "Objective", _learning(data)),
        ("gap", "Composition gap", _gap(data)),
        ("features", "Features", scatter(data.embedding, data.classes)),
        ("confusion", "Confusion on the validation images", _confusions(data)),
        ("calibration", "Calibration", reliability(validation.reliability if validation else None)),
        ("time", "Time", timing_chart(data.timings_s or {})),
        ("lineage", "Lineage", data.lineage or {}),
    )
    return [Section(*each) for each in possible if each[2] is not None]


def _ablations(data: ReportData) -> Ablations | None:
    if not data.ablations:
        return None
    rows = tuple(
        (
            each.name,
            number(each.accuracy),
            largest_weights(each),
        )
        for each in data.ablations
    )
    return Ablations(ablation_chart(data.ablations), rows)


def _learning(data: ReportData) -> Learning | None:
    named = {
        "Weights on the feature sum: best objective": data.objective_curve,
        "Composite prompt itself: objective": data.composite_curve,
    }
    drawn = tuple(filter(None, (curve(title, points or ()) for title, points in named.items())))
    known = data.objective and any(v is not None for v in data.objective.model_dump().values())
    return Learning(data.objective if known else None, drawn) if known or drawn else None


def _conflicts(data: ReportData) -> Conflicts | None:
    rows = data.gradient_cosine
    if not rows or not _square(rows):
        return None
    names = [source.name for source in data.sources or ()] or list(data.weights or {})
    if len(names) != len(rows):
        names = [f"source {i + 1}" for i in range(len(rows))]
    return Conflicts(
        cosine_matrix(rows, names) if len(rows) <= MAX_DRAWN else None,
        strongest_conflicts(rows, names),
    )


def _gap(data: ReportData) -> RowChart | None:
    gap = data.composition_gap
    return None if gap is None else gap_chart(gap.aligned, gap.unaligned)


def _confusions(data: ReportData) -> Confusions | None:
    rows, classes = data.confusion_matrix, data.classes
    if not rows or not _square(rows) or not classes or len(classes) != len(rows):
        return None
    return Confusions(
        confusion_matrix(rows, classes) if len(rows) <= MAX_DRAWN else None,
        worst_confusions(rows, classes),
        worst_classes(rows, classes) if len(rows) > MAX_LABELLED else (),
    )


def _square(rows: Sequence[Sequence[object]]) -> bool:
    return all(len(row) == len(rows) for row in rows)
