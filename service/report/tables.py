"""The report's tables: scores of the sources, confusions, conflicts, ablations."""

from collections.abc import Sequence
from dataclasses import dataclass

from service.report.charts.numbers import number
from service.report.data import Ablation, ReportData

MAX_LISTED = 10
MAX_WEIGHTS = 3
_SCORES = {
    "h_score": "H-score",
    "h_score_adjusted": "adjusted",
    "logme": "LogME",
    "similarity": "similarity",
    "validation_accuracy": "validation accuracy",
}


@dataclass(frozen=True)
class Column:
    """A column of numbers; the text of the best is marked."""

    heading: str
    texts: tuple[str, ...]
    best: int | None


@dataclass(frozen=True)
class ScoreTable:
    """A row for each source, those of most weight first."""

    labels: tuple[str, ...]
    columns: tuple[Column, ...]


@dataclass(frozen=True)
class Pair:
    """Two sources whose gradients pull in different directions."""

    first: str
    second: str
    cosine: float


@dataclass(frozen=True)
class Confusion:
    """Images of one class that were taken for another."""

    actual: str
    predicted: str
    count: int
    share: float


@dataclass(frozen=True)
class ClassRecall:
    """How many images of a class were recognised."""

    name: str
    right: int
    count: int


def score_table(data: ReportData) -> ScoreTable | None:
    """What is known of each source alone, beside its weight."""
    weights = data.weights or {}
    sources = sorted(data.sources or (), key=lambda each: -weights.get(each.name, 0.0))
    columns = [
        _column(
            "weight \N{GREEK SMALL LETTER ALPHA}", [weights.get(source.name) for source in sources]
        ),
        *(
            _column(heading, [getattr(source, field) for source in sources])
            for field, heading in _SCORES.items()
        ),
    ]
    known = tuple(column for column in columns if column is not None)
    if not known:
        return None
    return ScoreTable(tuple(source.label for source in sources), known)


def strongest_conflicts(
    rows: Sequence[Sequence[float | None]], labels: Sequence[str]
) -> tuple[Pair, ...]:
    """The pairs with the most negative cosines."""
    pairs = [
        Pair(labels[j], labels[i], value)
        for i, row in enumerate(rows)
        for j, value in enumerate(row[:i])
        if value is not None and value < 0
    ]
    return tuple(sorted(pairs, key=lambda pair: pair.cosine)[:MAX_LISTED])


def worst_confusions(
    rows: Sequence[Sequence[int]], classes: Sequence[str]
) -> tuple[Confusion, ...]:
    """The most frequent confusions, most images first."""
    found = [
        Confusion(classes[i], classes[j], count, count / sum(row))
        for i, row in enumerate(rows)
        for j, count in enumerate(row)
        if count and i != j
    ]
    return tuple(sorted(found, key=lambda c: (-c.count, -c.share, c.actual))[:MAX_LISTED])


def worst_classes(rows: Sequence[Sequence[int]], classes: Sequence[str]) -> tuple[ClassRecall, ...]:
    """The classes of which the least share was recognised; those without images are left out."""
    found = [
        ClassRecall(classes[i], row[i], sum(row)) for i, row in enumerate(rows) if sum(row) > row[i]
    ]
    return tuple(sorted(found, key=lambda c: (c.right / c.count, -c.count, c.name))[:MAX_LISTED])


def largest_weights(ablation: Ablation) -> str:
    """The largest weights of an ablation, in words."""
    ordered = sorted((ablation.weights or {}).items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{name} {number(value, 2)}" for name, value in ordered[:MAX_WEIGHTS])


def _column(heading: str, values: Sequence[float | None]) -> Column | None:
    """None if no value is known."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    return Column(
        heading, tuple(map(number, values)), values.index(max(known)) if len(known) > 1 else None
    )
