"""Charts of one bar or dot a row: weights, leaderboard, ablations, gap, durations."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from service.report.charts.axis import Axis, Interval, Tick
from service.report.charts.numbers import number

MAX_ROWS = 24
_WEIGHT_AXES = (0.1, 0.25, 0.5, 1.0)


class Ranked(Protocol):
    """A candidate with its held-out accuracy; `source` is the one that it starts from, if one."""

    source: str | None
    accuracy: float
    ci95: Interval | None

    @property
    def label(self) -> str:
        """What it is called."""
        ...


class Change(Protocol):
    """An ablation with its difference to the learned ensemble."""

    name: str
    difference: float | None
    difference_ci95: Interval | None


@dataclass(frozen=True)
class Row:
    """One row; positions are in per cent of the axis.

    Attributes:
        label: Its name.
        value: What it shows, as text.
        detail: The interval, as text.
        at: The bar's end, or the dot.
        low: Lower end of the interval; None if there is none.
        high: Upper end of the interval.
        marked: Drawn filled, not hollow.
    """

    label: str
    value: str
    at: float
    detail: str = ""
    low: float | None = None
    high: float | None = None
    marked: bool = False


@dataclass(frozen=True)
class RowChart:
    """Rows on one axis. `reference` is a line to compare with, `note` says what is left out."""

    kind: Literal["bars", "dots"]
    title: str
    description: str
    rows: tuple[Row, ...]
    ticks: tuple[Tick, ...] = ()
    reference: float | None = None
    note: str = ""


def weight_chart(weights: Mapping[str, float]) -> RowChart | None:
    """The weights alpha, largest first, on an axis from 0."""
    if not weights:
        return None
    ordered = sorted(weights.items(), key=lambda item: (-item[1], item[0]))
    axis = Axis(0.0, next((end for end in _WEIGHT_AXES if end >= ordered[0][1]), 1.0))
    rows = [Row(name, number(value), axis.at(value)) for name, value in ordered[:MAX_ROWS]]
    rest = ordered[MAX_ROWS:]
    note = f"{len(rest)} more sources share {sum(w for _, w in rest):.3f}." if rest else ""
    return RowChart(
        kind="bars",
        title="Weights of the sources",
        description=f"{len(ordered)} sources; {ordered[0][0]} has most, {ordered[0][1]:.3f}.",
        rows=tuple(rows),
        ticks=tuple(axis.ticks),
        note=note,
    )


def leaderboard_chart(ranked: Sequence[Ranked], chosen: str | None) -> RowChart | None:
    """The candidates with their intervals, best first; what does not fit is single sources."""
    if not ranked:
        return None
    ordered = sorted(ranked, key=lambda each: (-each.accuracy, each.label))
    shown = _shown(ordered, chosen)
    ends = [end for each in shown for end in (each.ci95 or (each.accuracy, each.accuracy))]
    axis = Axis.spanning(ends, pad=0.01, least=0.05)
    rows = [_dot(e.label, e.accuracy, e.ci95, axis, marked=e.label == chosen) for e in shown]
    left_out = len(ordered) - len(shown)
    return RowChart(
        kind="dots",
        title="Held-out accuracy of the candidates",
        description=f"{len(ordered)} candidates; {ordered[0].label} is best, "
        f"{ordered[0].accuracy:.3f}.",
        rows=tuple(rows),
        ticks=tuple(axis.ticks),
        note=f"{left_out} more single sources are not drawn." if left_out else "",
    )


def ablation_chart(ablations: Sequence[Change]) -> RowChart | None:
    """Differences to the learned ensemble; a dot is filled where its interval excludes 0."""
    known = [(each, each.difference) for each in ablations if each.difference is not None]
    if not known:
        return None
    ends = [end for each, value in known for end in (each.difference_ci95 or (value, value))]
    axis = Axis.spanning([*ends, 0.0], pad=0.005, least=0.02)
    rows = [
        _dot(
            each.name,
            value,
            each.difference_ci95,
            axis,
            marked=each.difference_ci95 is not None and _excludes_zero(each.difference_ci95),
            signed=True,
        )
        for each, value in known
    ]
    return RowChart(
        kind="dots",
        title="Change of accuracy in each ablation",
        description=f"{sum(row.marked for row in rows)} of {len(rows)} intervals exclude 0.",
        rows=tuple(rows),
        ticks=tuple(axis.ticks),
        reference=axis.at(0.0),
    )


def gap_chart(aligned: float | None, unaligned: float | None) -> RowChart | None:
    """The composition gap with and without aligned tokens, on an axis from 0."""
    named = {"tokens aligned": aligned, "tokens as stored": unaligned}
    known = [(label, value) for label, value in named.items() if value is not None]
    if not known:
        return None
    axis = Axis(0.0, max(1.0, *(value for _, value in known)))
    return RowChart(
        kind="bars",
        title="Composition gap",
        description="; ".join(f"{label}: {value:.3f}" for label, value in known) + ".",
        rows=tuple(Row(label, number(value), axis.at(value)) for label, value in known),
        ticks=tuple(axis.ticks),
    )


def timing_chart(timings_s: Mapping[str, float]) -> RowChart | None:
    """The stages' durations, in their order."""
    if not timings_s:
        return None
    axis = Axis(0.0, max([*timings_s.values(), 1e-9]))
    return RowChart(
        kind="bars",
        title="Duration of each stage",
        description=f"{sum(timings_s.values()):.1f} s in all.",
        rows=tuple(
            Row(name, f"{value:.2f} s", axis.at(value)) for name, value in timings_s.items()
        ),
    )


def _shown(ordered: Sequence[Ranked], chosen: str | None) -> list[Ranked]:
    """At most MAX_ROWS candidates if single sources can be left out for it."""
    spare = MAX_ROWS - sum(_always(each, chosen) for each in ordered)
    singles = [each for each in ordered if not _always(each, chosen)][: max(0, spare)]
    return [each for each in ordered if _always(each, chosen) or each in singles]


def _always(each: Ranked, chosen: str | None) -> bool:
    return each.source is None or each.label == chosen


def _dot(
    label: str,
    value: float,
    interval: Interval | None,
    axis: Axis,
    *,
    marked: bool,
    signed: bool = False,
) -> Row:
    low, high = (axis.at(end) for end in interval) if interval else (None, None)
    return Row(
        label=label,
        value=number(value, signed=signed),
        at=axis.at(value),
        detail=" to ".join(number(end, signed=signed) for end in interval or ()),
        low=low,
        high=high,
        marked=marked,
    )


def _excludes_zero(interval: Iterable[float]) -> bool:
    low, high = interval
    return low > 0 or high < 0
