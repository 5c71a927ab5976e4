"""Geometry of the report's bars, dots and curves; the template draws them as SVG."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from service.report_data import Candidate, Ranked

PLOT_WIDTH_PX = 460.0
CURVE_HEIGHT_PX = 160.0


@dataclass(frozen=True)
class Tick:
    """A mark on an axis."""

    at_px: float
    label: str


@dataclass(frozen=True)
class Axis:
    """A linear axis from `low` to `high` over `length_px`."""

    low: float
    high: float
    length_px: float

    def px(self, value: float) -> float:
        """Where a value lies, cut to the axis."""
        share = (value - self.low) / (self.high - self.low)
        return round(self.length_px * min(1.0, max(0.0, share)), 2)

    @property
    def ticks(self) -> list[Tick]:
        """About five round values."""
        step = _round_step((self.high - self.low) / 4)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [Tick(self.px(i * step), f"{i * step:.6g}") for i in range(first, last + 1)]


@dataclass(frozen=True)
class Bar:
    """One horizontal bar."""

    label: str
    value: float
    width_px: float


@dataclass(frozen=True)
class Dot:
    """One candidate of the leaderboard: a dot with its 95 % interval."""

    label: str
    accuracy: float
    at_px: float
    low_px: float | None
    high_px: float | None
    interval: str
    chosen: bool


def weight_bars(weights: dict[str, float]) -> list[Bar]:
    """Bars of the weights alpha, largest first, on an axis from 0 to 1."""
    axis = Axis(0.0, 1.0, PLOT_WIDTH_PX)
    ordered = sorted(weights.items(), key=lambda item: (-item[1], item[0]))
    return [Bar(label, value, axis.px(value)) for label, value in ordered]


def timing_bars(timings_s: dict[str, float]) -> list[Bar]:
    """Bars of the stages' durations, in their order."""
    axis = Axis(0.0, max([*timings_s.values(), 1e-9]), PLOT_WIDTH_PX)
    return [Bar(label, value, axis.px(value)) for label, value in timings_s.items()]


def leaderboard(ranked: Sequence[Ranked], chosen: Candidate | str | None) -> tuple[Axis, list[Dot]]:
    """Dots of the candidates, best first, on an axis that spans their intervals."""
    ends = [end for each in ranked for end in (each.ci95 or (each.accuracy, each.accuracy))]
    low, high = max(0.0, min(ends) - 0.02), min(1.0, max(ends) + 0.02)
    axis = Axis(low, max(high, low + 0.05), PLOT_WIDTH_PX)
    label = chosen.label if isinstance(chosen, Candidate) else chosen
    ordered = sorted(ranked, key=lambda each: (-each.accuracy, each.label))
    return axis, [_dot(each, axis, chosen=each.label == label) for each in ordered]


def curve(points: Sequence[tuple[float, float]]) -> tuple[Axis, str] | None:
    """The objective by step, as a polyline; None if there are fewer than two points."""
    if len(points) < 2:  # noqa: PLR2004
        return None
    steps, values = zip(*points, strict=True)
    x_axis = Axis(min(steps), max(*steps, min(steps) + 1.0), PLOT_WIDTH_PX)
    y_axis = Axis(min(values), max(*values, min(values) + 1e-6), CURVE_HEIGHT_PX)
    line = (f"{x_axis.px(x)},{CURVE_HEIGHT_PX - y_axis.px(y):.2f}" for x, y in points)
    return y_axis, " ".join(line)


def _dot(each: Ranked, axis: Axis, *, chosen: bool) -> Dot:
    return Dot(
        label=each.label,
        accuracy=each.accuracy,
        at_px=axis.px(each.accuracy),
        low_px=axis.px(each.ci95[0]) if each.ci95 else None,
        high_px=axis.px(each.ci95[1]) if each.ci95 else None,
        interval=f"{each.ci95[0]:.3f} to {each.ci95[1]:.3f}" if each.ci95 else "",
        chosen=chosen,
    )


def _round_step(raw: float) -> float:
    """The next larger of 1, 2 and 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(raw))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))
