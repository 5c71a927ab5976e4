"""Square matrices: gradient conflict between sources, confusion between classes."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from service.report.charts.numbers import number

LEVELS = 10
MAX_LABELLED = 40
MAX_DRAWN = 200
SIDE_PX, MIN_CELL_PX, MAX_CELL_PX = 520.0, 2.6, 40.0
MIN_TEXT_CELL_PX = 22.0
MIN_HATCHED_CELL_PX = 8.0


@dataclass(frozen=True)
class Cell:
    """One cell: its text, how strongly it is coloured (0 to 1), and whether in the warm colour."""

    text: str
    strength: float
    warm: bool


@dataclass(frozen=True)
class Layer:
    """All cells of one colour and strength as one path, a cell being 1 by 1."""

    warm: bool
    strength: float
    path: str


@dataclass(frozen=True)
class Text:
    """What is written in a cell."""

    row: int
    column: int
    text: str


@dataclass(frozen=True)
class Matrix:
    """A square matrix; labels and texts are left out when there is no room for them.

    Attributes:
        rows_are: What a row stands for.
        columns_are: What a column stands for.
        hatched: Whether warm cells are hatched too: where there is room, and no text says it.
    """

    title: str
    description: str
    rows_are: str
    columns_are: str
    hatched: bool
    size: int
    cell_px: float
    layers: tuple[Layer, ...]
    texts: tuple[Text, ...]
    labels: tuple[str, ...]

    @property
    def side_px(self) -> float:
        """Side of all cells together."""
        return round(self.size * self.cell_px, 2)

    @property
    def warm_path(self) -> str:
        """All warm cells."""
        return "".join(layer.path for layer in self.layers if layer.warm)


def cosine_matrix(rows: Sequence[Sequence[float | None]], labels: Sequence[str]) -> Matrix:
    """The cosines of the sources' mean gradients: below 0 they pull in different directions."""
    below = [value for i, row in enumerate(rows) for value in row[:i] if value is not None]
    return _matrix(
        [[_cosine_cell(value) for value in row] for row in rows],
        labels,
        title="Cosines of the sources' mean gradients",
        description=f"{len(rows)} sources; {sum(value < 0 for value in below)} of {len(below)} "
        "pairs are below 0.",
        rows_are="source",
        columns_are="source",
        hatched=True,
    )


def confusion_matrix(rows: Sequence[Sequence[int]], labels: Sequence[str]) -> Matrix:
    """Actual class by predicted class, coloured by the share of the actual class."""
    right = sum(row[i] for i, row in enumerate(rows))
    return _matrix(
        [
            [
                Cell(str(count or ""), count / max(1, sum(row)), warm=i != j)
                for j, count in enumerate(row)
            ]
            for i, row in enumerate(rows)
        ],
        labels,
        title="Confusion matrix",
        description=f"{len(rows)} classes; {right} of {sum(map(sum, rows))} images are right.",
        rows_are="actual",
        columns_are="predicted",
        hatched=False,
    )


def _cosine_cell(value: float | None) -> Cell:
    if value is None:
        return Cell("", 0.0, warm=False)
    return Cell(number(value, 2), min(1.0, abs(value)), warm=value < 0)


def _matrix(
    cells: Sequence[Sequence[Cell]],
    labels: Sequence[str],
    *,
    title: str,
    description: str,
    rows_are: str,
    columns_are: str,
    hatched: bool,
) -> Matrix:
    cell_px = round(max(MIN_CELL_PX, min(MAX_CELL_PX, SIDE_PX / len(cells))), 2)
    return Matrix(
        title=title,
        description=description,
        rows_are=rows_are,
        columns_are=columns_are,
        hatched=hatched and MIN_HATCHED_CELL_PX <= cell_px < MIN_TEXT_CELL_PX,
        size=len(cells),
        cell_px=cell_px,
        layers=_layers(cells),
        texts=_texts(cells) if cell_px >= MIN_TEXT_CELL_PX else (),
        labels=tuple(labels) if len(cells) <= MAX_LABELLED else (),
    )


def _layers(cells: Sequence[Sequence[Cell]]) -> tuple[Layer, ...]:
    """Cells by colour and rounded strength: a few paths instead of thousands of rectangles."""
    paths: dict[tuple[bool, int], str] = defaultdict(str)
    for i, row in enumerate(cells):
        for j, cell in enumerate(row):
            if cell.strength > 0:
                paths[cell.warm, math.ceil(LEVELS * cell.strength)] += f"M{j} {i}h1v1h-1z"
    return tuple(Layer(warm, level / LEVELS, path) for (warm, level), path in sorted(paths.items()))


def _texts(cells: Sequence[Sequence[Cell]]) -> tuple[Text, ...]:
    return tuple(
        Text(i, j, cell.text)
        for i, row in enumerate(cells)
        for j, cell in enumerate(row)
        if cell.text
    )
