"""Linear axes with round ticks."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from service.report.charts.numbers import number

_MAX_DECIMALS = 6
_LARGEST_PLAIN = 1e6

Interval = tuple[float, float]
Point = tuple[float, float]


@dataclass(frozen=True)
class Tick:
    """A mark on an axis, `at` units from its start."""

    at: float
    label: str


@dataclass(frozen=True)
class Axis:
    """A linear axis from `low` to `high`, `length` units long (per cent, or pixels of a view).

    `whole` axes have ticks at whole numbers only.
    """

    low: float
    high: float
    length: float = 100.0
    whole: bool = False

    @classmethod
    def spanning(
        cls,
        values: Iterable[float],
        *,
        pad: float = 0.0,
        least: float = 0.0,
        length: float = 100.0,
        whole: bool = False,
    ) -> Self:
        """Cover all values and `pad` on either side, at least `least` wide in all."""
        found = list(values)
        low, high = min(found) - pad, max(found) + pad
        spare = max(0.0, max(least, 1e-3 * max(abs(low), abs(high)), 1e-9) - (high - low)) / 2
        return cls(low - spare, high + spare, length, whole)

    def at(self, value: float) -> float:
        """Where a value lies, cut to the axis."""
        share = (value - self.low) / (self.high - self.low)
        return round(self.length * min(1.0, max(0.0, share)), 2)

    @property
    def ticks(self) -> list[Tick]:
        """About five round values, all with the same number of decimals."""
        step = _round_step((self.high - self.low) / 5)
        step = max(1.0, step) if self.whole else step
        decimals = min(_MAX_DECIMALS, max(0, -math.floor(math.log10(step) + 1e-9)))
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [Tick(self.at(i * step), _label(i * step, decimals)) for i in range(first, last + 1)]


def _label(value: float, decimals: int) -> str:
    if abs(value) >= _LARGEST_PLAIN:
        return f"{value:.4g}"
    return number(value, decimals)


def _round_step(raw: float) -> float:
    """The next larger of 1, 2 and 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(raw))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))
