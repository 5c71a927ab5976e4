"""The plots of the report, as SVG files whose bytes depend on the results alone."""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import scikit_posthocs
from matplotlib.figure import Figure

from benchmarks.reporting.svg import STYLE, save_figure
from benchmarks.suite.intervals import (
    Floats,
    Interval,
    critical_difference,
    mean_ranks,
    win_rates,
)
from benchmarks.suite.variants import OURS


def plot_gain(
    gains: dict[str, dict[int, Interval]], path: Path, *, reference: str, title: str
) -> None:
    """Draw the mean gain over a reference against the number of sources.

    Args:
        gains: variant -> M -> gain over the tasks.
        path: File to write.
        reference: Name of the variant at 0.
        title: Above the plot.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 4.0), layout="constrained")
        axes = figure.add_subplot()
        axes.axhline(0, color="black", linewidth=0.8)
        numbers = sorted({num for by_num in gains.values() for num in by_num})
        shifts = np.linspace(-0.25, 0.25, len(gains))  # so that bars do not hide each other
        for (variant, by_num), shift in zip(gains.items(), shifts, strict=True):
            means = np.array([gain.mean for gain in by_num.values()])
            axes.errorbar(
                np.array(list(by_num)) + shift,
                means,
                yerr=np.array([_half_width(gain) for gain in by_num.values()]),
                label=variant,
                marker="o",
                markersize=4,
                capsize=2,
                linewidth=2.5 if variant == OURS else 1.2,
                zorder=3 if variant == OURS else 2,
            )
        axes.set_xticks(numbers)
        axes.set_xlabel("number of source prompts M")
        axes.set_ylabel(f"test accuracy minus that of {reference}")
        axes.set_title(title)
        axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
        save_figure(figure, path)


def plot_win_rates(variants: Sequence[str], accuracies: Floats, path: Path, *, title: str) -> None:
    """Draw how often the row's variant beats the column's, over tasks.

    Args:
        variants: k names.
        accuracies: (k, n tasks).
        path: File to write.
        title: Above the plot.
    """
    rates = win_rates(accuracies)
    with mpl.rc_context(STYLE):
        side = 1.8 + 0.55 * len(variants)
        figure = Figure(figsize=(side + 0.8, side), layout="constrained")
        axes = figure.add_subplot()
        picture = axes.imshow(rates, cmap="RdBu", vmin=0, vmax=1)
        for (row, column), rate in np.ndenumerate(rates):
            if row != column:
                dark = abs(rate - 0.5) > 0.35  # noqa: PLR2004 - where black is hard to read
                color = "white" if dark else "black"
                axes.text(column, row, f"{rate:.2f}", ha="center", va="center", color=color)
        axes.set_xticks(range(len(variants)), variants, rotation=45, ha="right")
        axes.set_yticks(range(len(variants)), variants)
        axes.set_xlabel("beaten by the row")
        axes.set_title(title)
        figure.colorbar(picture, ax=axes, shrink=0.7, label="share of tasks")
        save_figure(figure, path)


def plot_critical_difference(
    variants: Sequence[str], accuracies: Floats, path: Path, *, title: str
) -> None:
    """Draw mean ranks over tasks; a bar joins variants that Nemenyi's test does not tell apart.

    Args:
        variants: k >= 3 names.
        accuracies: (k, n >= 2 tasks).
        path: File to write.
        title: Above the plot.
    """
    k, n = accuracies.shape
    ranks = pd.Series(mean_ranks(accuracies), index=list(variants))
    by_task = pd.DataFrame(accuracies.T, columns=list(variants))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 1.6 + 0.22 * k), layout="constrained")
        axes = figure.add_subplot()
        drawn: dict[str, Any] = scikit_posthocs.critical_difference_diagram(
            ranks,
            scikit_posthocs.posthoc_nemenyi_friedman(by_task),
            ax=axes,
            label_fmt_left="{label} ({rank:.2f}) ",
            label_fmt_right=" ({rank:.2f}) {label}",
        )
        for bar in chain.from_iterable(drawn["crossbars"]):
            # It passes through a set of names, whose order is another one in each interpreter.
            bar.set_xdata(np.sort(bar.get_xdata()))
        axes.set_title(f"{title}: mean rank, critical difference {critical_difference(k, n):.2f}")
        save_figure(figure, path)


def _half_width(interval: Interval) -> float:
    return 0.0 if interval.high is None else interval.high - interval.mean
