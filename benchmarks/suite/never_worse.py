"""Tables of how far a method stays behind the best simple candidate, which only hindsight knows."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.reporting.markdown import table
from benchmarks.suite.intervals import Interval, image_interval, t_interval
from benchmarks.suite.panel import Panel
from benchmarks.suite.variants import OURS, SIMPLE

_ABSENT = "n/a"


@dataclass(frozen=True)
class _Comparison:
    """A method against the best simple candidate of a task, seeds averaged.

    Attributes:
        over_images: The difference with an interval over the test images, for the training images
            that were drawn.
        over_seeds: The same with a t-interval over the seeds, for the test images as they are.
    """

    task: str
    accuracy: float
    best: str
    best_accuracy: float
    over_images: Interval
    over_seeds: Interval


def simple_candidates(panels: Sequence[Panel]) -> list[str]:
    """Return the simple candidates that have any cell."""
    return [variant for variant in SIMPLE if any(variant in panel.variants for panel in panels)]


def never_worse_table(panel: Panel) -> str | None:
    """`hgprompt` against the simple candidate of the best test accuracy, task by task."""
    comparisons = _comparisons(panel, OURS)
    if not comparisons:
        return None
    verdicts = Counter(_verdict(each.over_images) for each in comparisons)
    rows = [
        [
            each.task,
            f"{each.accuracy:.3f}",
            f"{each.best} {each.best_accuracy:.3f}",
            str(each.over_images),
            _verdict(each.over_images),
        ]
        for each in comparisons
    ]
    counts = ", ".join(f"{number} {verdict}" for verdict, number in sorted(verdicts.items()))
    header = ["task", "hgprompt", "best simple", "difference", "verdict"]
    return f"Of {len(rows)} tasks: {counts}.\n\n{table(header, rows)}"


def worse_table(panels: Sequence[Panel]) -> str | None:
    """On how many tasks each method is worse than the best simple candidate, beyond the interval.

    Over the test images, then over the seeds where there are several.
    """
    panels = [panel for panel in panels if OURS in panel.variants and simple_candidates([panel])]
    variants = list(dict.fromkeys(v for panel in panels for v in panel.variants))
    if not variants:
        return None
    header = ["worse, over images / over seeds", *(f"M = {panel.num_sources}" for panel in panels)]
    return table(header, [[v, *(_num_worse(panel, v) for panel in panels)] for v in variants])


def _num_worse(panel: Panel, variant: str) -> str:
    comparisons = _comparisons(panel, variant)
    if not comparisons:
        return _ABSENT
    over_images = sum(_verdict(each.over_images) == "worse" for each in comparisons)
    over_seeds = sum(_verdict(each.over_seeds) == "worse" for each in comparisons)
    has_seeds = all(each.over_seeds.high is not None for each in comparisons)
    return f"{over_images} / {over_seeds if has_seeds else _ABSENT} of {len(comparisons)}"


def _comparisons(panel: Panel, variant: str) -> list[_Comparison]:
    """Compare a variant on each task that it and the simple candidates finished for a seed."""
    simple = simple_candidates([panel])
    if variant not in panel.variants or not simple:
        return []
    # A simple candidate is compared too, with itself where it is the best.
    wanted = list(dict.fromkeys([variant, *simple]))
    found: list[_Comparison] = []
    for task in panel.common_tasks(wanted):
        seeds = panel.common_seeds(task, wanted)
        means = [panel.by_seed(name, task, seeds).mean() for name in simple]
        best = simple[int(np.argmax(means))]
        ours, theirs = (panel.by_seed(name, task, seeds) for name in (variant, best))
        found.append(
            _Comparison(
                task=task,
                accuracy=float(ours.mean()),
                best=best,
                best_accuracy=float(max(means)),
                over_images=image_interval(
                    panel.correct(variant, task, seeds), panel.correct(best, task, seeds)
                ),
                over_seeds=t_interval(ours - theirs),
            )
        )
    return found


def _verdict(interval: Interval) -> str:
    if interval.low is not None and interval.low > 0:
        return "better"
    if interval.high is not None and interval.high < 0:
        return "worse"
    return "no difference"
