"""Curves of the objective over the evaluations."""

from collections.abc import Sequence
from dataclasses import dataclass

from service.report.charts.axis import Axis, Point, Tick

WIDTH, HEIGHT = 330.0, 190.0
MAX_DOTS = 30


@dataclass(frozen=True)
class Curve:
    """A polyline in a view of WIDTH by HEIGHT, y downwards; `dots` mark few points."""

    title: str
    description: str
    line: str
    dots: tuple[Point, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]


def curve(title: str, points: Sequence[Point]) -> Curve | None:
    """Draw values by evaluation; None if there are fewer than two points."""
    if len(points) < 2:  # noqa: PLR2004
        return None
    steps, values = zip(*points, strict=True)
    x_axis = Axis.spanning(steps, least=1.0, length=WIDTH, whole=True)
    y_axis = Axis.spanning(values, least=1e-6, length=HEIGHT)
    drawn = [(x_axis.at(x), round(HEIGHT - y_axis.at(y), 2)) for x, y in points]
    return Curve(
        title=title,
        description=f"From {values[0]:.4g} to {values[-1]:.4g} in {len(points)} evaluations; "
        f"the highest is {max(values):.4g}.",
        line=" ".join(f"{x},{y}" for x, y in drawn),
        dots=tuple(drawn) if len(drawn) <= MAX_DOTS else (),
        x_ticks=tuple(x_axis.ticks),
        y_ticks=tuple(y_axis.ticks),
    )
