"""The report's matrices: gradient conflict between sources, confusion between classes."""

from dataclasses import dataclass

from service.report_data import ReportData

MAX_LABELLED = 40
MAX_DRAWN = 150
MAX_CONFUSIONS = 10


@dataclass(frozen=True)
class Cell:
    """One cell of a matrix; `strength` from 0 to 1 is how strongly it is coloured."""

    row: int
    column: int
    text: str
    title: str
    strength: float
    negative: bool = False


@dataclass(frozen=True)
class Matrix:
    """A square matrix of cells; labels are left out when there are too many."""

    size: int
    cells: tuple[Cell, ...]
    labels: tuple[str, ...]
    cell_px: float

    @property
    def side_px(self) -> float:
        """Side of all cells together."""
        return self.size * self.cell_px


@dataclass(frozen=True)
class Confusion:
    """Images of one class that were taken for another."""

    actual: str
    predicted: str
    count: int
    share: float


def cosine_matrix(data: ReportData) -> Matrix | None:
    """The cosines of the sources' mean gradients: below 0 they pull in different directions."""
    rows = data.gradient_cosine
    if not rows or any(len(row) != len(rows) for row in rows):
        return None
    names = [source.name for source in data.sources or ()] or list(data.weights or {})
    labels = tuple(names) if len(names) == len(rows) else tuple(map(str, range(len(rows))))
    cells = [
        Cell(
            row=i,
            column=j,
            text="" if value is None else f"{value:.2f}",
            title=f"{labels[i]} and {labels[j]}: "
            + ("undefined" if value is None else f"{value:.3f}"),
            strength=0.0 if value is None else min(1.0, abs(value)),
            negative=value is not None and value < 0,
        )
        for i, row in enumerate(rows)
        for j, value in enumerate(row)
    ]
    return Matrix(len(rows), tuple(cells), labels, _cell_px(len(rows)))


def confusion_matrix(data: ReportData) -> Matrix | None:
    """Actual class by predicted class, coloured by the share of the actual class."""
    rows, classes = _confusion(data)
    if not 0 < len(rows) <= MAX_DRAWN:
        return None
    cells = [
        Cell(
            row=i,
            column=j,
            text=str(count) if count else "",
            title=f"{classes[i]} taken for {classes[j]}: {count}",
            strength=count / max(1, sum(row)),
            negative=i != j,
        )
        for i, row in enumerate(rows)
        for j, count in enumerate(row)
    ]
    return Matrix(len(rows), tuple(cells), tuple(classes), _cell_px(len(rows)))


def worst_confusions(data: ReportData) -> list[Confusion]:
    """The most frequent confusions, most images first."""
    rows, classes = _confusion(data)
    found = [
        Confusion(classes[i], classes[j], count, count / sum(row))
        for i, row in enumerate(rows)
        for j, count in enumerate(row)
        if count and i != j
    ]
    return sorted(found, key=lambda each: (-each.count, -each.share, each.actual))[:MAX_CONFUSIONS]


def _confusion(data: ReportData) -> tuple[tuple[tuple[int, ...], ...], tuple[str, ...]]:
    """The confusion matrix and its classes; empty if it is absent or they do not fit."""
    rows, classes = data.confusion_matrix or (), data.classes or ()
    square = len(rows) == len(classes) and all(len(row) == len(rows) for row in rows)
    return (rows, classes) if square else ((), ())


def _cell_px(size: int) -> float:
    return max(4.0, min(44.0, 520.0 / size))
