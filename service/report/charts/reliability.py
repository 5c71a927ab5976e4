"""The reliability diagram: how often predictions of a confidence are right."""

import math
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
    """Bins in a view of WIDTH by HEIGHT, with a histogram of their counts below.

    `chance_ece` is the calibration error that a model would show on so many images, on average,
    whose every probability is right.
    """

    title: str
    description: str
    bins: tuple[Bin, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    most: int
    chance_ece: float


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
        chance_ece=_chance_ece(full),
    )


def _chance_ece(full: Sequence[Binned]) -> float:
    """Mean over images of E|share of right ones - confidence| of their bin."""
    errors = [
        each.count * _mean_deviation(each.count, min(1.0, max(0.0, each.confidence)))
        for each in full
        if each.confidence is not None
    ]
    return sum(errors) / sum(each.count for each in full)


def _mean_deviation(trials: int, share: float) -> float:
    """E|X / n - p| of a binomial X, by De Moivre's formula (Diaconis and Zabell 1991).

    With m = floor(n p) it is 2 (m + 1) / n binom(n, m + 1) p^(m + 1) (1 - p)^(n - m).
    """
    if share in (0.0, 1.0):
        return 0.0
    above = min(trials, math.floor(trials * share) + 1)  # m + 1
    log_choices = math.lgamma(trials + 1) - math.lgamma(above + 1) - math.lgamma(trials - above + 1)
    log_mass = above * math.log(share) + (trials - above + 1) * math.log1p(-share)
    return 2 * above / trials * math.exp(log_choices + log_mass)


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
