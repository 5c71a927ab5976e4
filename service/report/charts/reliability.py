"""The reliability diagram: how often predictions of a confidence are right."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ensemble.wilson import wilson_interval
from service.report.charts.axis import Axis, Tick

WIDTH, HEIGHT, HISTOGRAM_HEIGHT = 330.0, 260.0, 48.0


class Binned(Protocol):
    """Images of about the same confidence: how many, and their means if there are any."""

    low: float
    high: float
    count: int
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True)
class Bin:
    """One bin: the dot with its interval, y downwards, and its column of the histogram."""

    title: str
    left: float
    width: float
    column: float
    x: float
    y: float
    top: float
    bottom: float


@dataclass(frozen=True)
class Reliability:
    """Bins in a view of WIDTH by HEIGHT, with a histogram of their counts below."""

    title: str
    description: str
    bins: tuple[Bin, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    most: int


def reliability(found: Sequence[Binned] | None) -> Reliability | None:
    """Draw the bins that hold images; None if none does."""
    full = [each for each in found or () if each.count]
    if not full:
        return None
    x_axis, y_axis = Axis(0.0, 1.0, WIDTH), Axis(0.0, 1.0, HEIGHT)
    most = max(each.count for each in full)
    bins = [
        _bin(each, each.confidence, each.accuracy, most, x_axis, y_axis)
        for each in full
        if each.confidence is not None and each.accuracy is not None
    ]
    return Reliability(
        title="Reliability diagram",
        description="; ".join(each.title for each in bins) + ".",
        bins=tuple(bins),
        x_ticks=tuple(x_axis.ticks),
        y_ticks=tuple(y_axis.ticks),
        most=most,
    )


def _bin(
    each: Binned, confidence: float, accuracy: float, most: int, x_axis: Axis, y_axis: Axis
) -> Bin:
    correct = min(each.count, max(0, round(accuracy * each.count)))
    low, high = wilson_interval(correct, each.count)
    left, right = x_axis.at(each.low), x_axis.at(each.high)
    return Bin(
        title=f"confidence {confidence:.2f}: accuracy {accuracy:.2f} on {each.count} images",
        left=left,
        width=round(right - left, 2),
        column=round(HISTOGRAM_HEIGHT * each.count / most, 2),
        x=x_axis.at(confidence),
        y=round(HEIGHT - y_axis.at(accuracy), 2),
        top=round(HEIGHT - y_axis.at(high), 2),
        bottom=round(HEIGHT - y_axis.at(low), 2),
    )
