"""Paired differences with 95 % intervals, and ranks over tasks."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]
_LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval; without one where there are too few units for it."""

    mean: float
    low: float | None
    high: float | None

    def __str__(self) -> str:
        """Show a signed mean and its interval."""
        if self.low is None or self.high is None:
            return f"{self.mean:+.3f}"
        return f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


def t_interval(differences: Floats) -> Interval:
    """Return the mean of (n,) differences and its t-interval; the units are the entries."""
    mean = float(differences.mean())
    if len(differences) < 2:  # noqa: PLR2004
        return Interval(mean, None, None)
    error = float(differences.std(ddof=1)) / math.sqrt(len(differences))
    half = float(stats.t.ppf((1 + _LEVEL) / 2, len(differences) - 1)) * error
    return Interval(mean, mean - half, mean + half)


def compared(differences: Floats) -> str:
    """Show the mean of (n,) differences, its t-interval, and how many are won, tied and lost."""
    wins, losses = int((differences > 0).sum()), int((differences < 0).sum())
    return f"{t_interval(differences)} ({wins}-{len(differences) - wins - losses}-{losses})"


def image_interval(ours: Floats, theirs: Floats) -> Interval:
    """Return the difference of two accuracies on the same test images with its interval.

    Args:
        ours: (seeds, images), 1 where an image was classified correctly.
        theirs: The same of the other method.
    """
    # The seeds of an image are averaged first: the images are the independent units.
    differences = (ours - theirs).mean(0)
    mean = float(differences.mean())
    half = float(stats.norm.ppf((1 + _LEVEL) / 2)) * float(differences.std())
    half /= math.sqrt(len(differences))
    return Interval(mean, mean - half, mean + half)


def win_rates(accuracies: Floats) -> Floats:
    """Return (k, k), the share of tasks in which the row's method beats the column's.

    A tie counts half to each.

    Args:
        accuracies: (k methods, n tasks).
    """
    ours, theirs = accuracies[:, None, :], accuracies[None, :, :]
    return ((ours > theirs) + 0.5 * (ours == theirs)).mean(2)


def mean_ranks(accuracies: Floats) -> Floats:
    """Return each method's mean rank (k,) over the tasks, 1 = best, ties averaged."""
    return stats.rankdata(-accuracies, axis=0).mean(1)


def friedman_p(accuracies: Floats) -> float | None:
    """Return the p-value of "all methods rank alike" (Friedman 1937); None if there is no test.

    Args:
        accuracies: (k methods, n tasks); at least 3 methods and 2 tasks are needed.
    """
    k, n = accuracies.shape
    if k < 3 or n < 2 or bool((accuracies == accuracies[0]).all()):  # noqa: PLR2004
        return None
    return float(stats.friedmanchisquare(*accuracies).pvalue)


def critical_difference(num_methods: int, num_tasks: int) -> float:
    """Return the difference of mean ranks above which two methods differ, at 5 % for all pairs.

    Nemenyi's test: q sqrt(k (k + 1) / (6 n)) (Demsar 2006, "Statistical Comparisons of
    Classifiers over Multiple Data Sets", JMLR 7).
    """
    quantile = float(stats.studentized_range.ppf(_LEVEL, num_methods, math.inf)) / math.sqrt(2)
    return quantile * math.sqrt(num_methods * (num_methods + 1) / (6 * num_tasks))
