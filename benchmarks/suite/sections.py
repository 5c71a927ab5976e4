"""The tables of the report, each a function of panels."""

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from benchmarks.reporting.markdown import table
from benchmarks.suite.intervals import Floats, Interval, compared, t_interval
from benchmarks.suite.panel import Panel, Seeds
from benchmarks.suite.records import CellRecord
from benchmarks.suite.task_groups import group_of
from benchmarks.suite.variants import OURS

REFERENCE = "none"
_ABSENT = "n/a"


def main_panel(panels: Sequence[Panel]) -> Panel:
    """Return the panel of the most tasks common to all its variants, of these the largest M."""
    return max(panels, key=lambda p: (len(p.common_tasks(p.variants)), p.num_sources))


def accuracy_table(panels: Sequence[Panel]) -> str:
    """Mean test accuracy of each variant for each M, over the tasks common to the panel."""
    variants = list(dict.fromkeys(v for panel in panels for v in panel.variants))
    columns: list[dict[str, float]] = []
    header = ["method"]
    for panel in panels:
        tasks = panel.common_tasks(panel.variants)
        header.append(f"M = {panel.num_sources} ({len(tasks)} tasks)")
        means = panel.accuracies(panel.variants, tasks).mean(1) if tasks else []
        columns.append(dict(zip(panel.variants, means, strict=bool(tasks))))
    rows = [[v, *(f"{c[v]:.3f}" if v in c else _ABSENT for c in columns)] for v in variants]
    return table(header, rows)


def paired_differences(panel: Panel, baseline: str) -> np.ndarray:
    """Return `hgprompt` minus a baseline in each task that both finished, seeds averaged."""
    pair = [OURS, baseline]
    ours, theirs = panel.accuracies(pair, panel.common_tasks(pair))
    return ours - theirs


def difference_table(panels: Sequence[Panel]) -> str | None:
    """`hgprompt` minus every other variant, with t-intervals over tasks and wins-ties-losses."""
    panels = [panel for panel in panels if OURS in panel.variants]
    others = dict.fromkeys(v for panel in panels for v in panel.variants if v != OURS)
    if not others:
        return None
    header = ["hgprompt minus", *(f"M = {panel.num_sources}" for panel in panels)]
    return table(header, [[other, *(_difference(p, other) for p in panels)] for other in others])


def _difference(panel: Panel, other: str) -> str:
    if other not in panel.variants:
        return _ABSENT
    differences = paired_differences(panel, other)
    return compared(differences) if len(differences) else _ABSENT


def group_table(panel: Panel) -> str | None:
    """`hgprompt` minus every other variant as `difference_table`, by group of tasks."""
    others = [variant for variant in panel.variants if variant != OURS]
    tasks = {task for by_task in panel.records.values() for task in by_task}
    groups = sorted({group_of(task) for task in tasks})
    if OURS not in panel.variants or not others or len(groups) < 2:  # noqa: PLR2004
        return None
    parts = {
        group: panel.without({task for task in tasks if group_of(task) != group})
        for group in groups
    }
    counts = [len({t for by_task in p.records.values() for t in by_task}) for p in parts.values()]
    header = [f"{group} ({count} tasks)" for group, count in zip(groups, counts, strict=True)]
    rows = [[other, *(_difference(p, other) for p in parts.values())] for other in others]
    return table(["hgprompt minus", *header], rows)


def more_sources_table(panels: Sequence[Panel]) -> str | None:
    """Every variant minus itself with the fewest sources, t-intervals over tasks, wins-ties-losses.

    Variants without sources, and those with one number of sources only, have no row.
    """
    first, *others = sorted(panels, key=lambda panel: panel.num_sources)
    rows: list[list[str]] = []
    for variant, by_task in first.records.items():
        if not any(r.cell.num_sources for seeds in by_task.values() for r in seeds.values()):
            continue
        found = [_minus_fewest(first, panel, variant) for panel in others]
        if any(len(differences) for differences in found):
            rows.append([variant, *(compared(d) if len(d) else _ABSENT for d in found)])
    if not rows:
        return None
    header = [f"M = {panel.num_sources} minus {first.num_sources}" for panel in others]
    return table(["method", *header], rows)


def _minus_fewest(first: Panel, panel: Panel, variant: str) -> Floats:
    """A variant's accuracy with M sources minus that with the fewest, (n tasks,)."""
    differences: list[float] = []
    for task, fewest in first.records[variant].items():
        more = panel.records.get(variant, {}).get(task, {})
        seeds = sorted(fewest.keys() & more.keys())
        if seeds:
            of_seeds = [more[seed].test_accuracy - fewest[seed].test_accuracy for seed in seeds]
            differences.append(float(np.mean(of_seeds)))
    # Rounded as in `Panel.accuracies`, so that a tie is one.
    return np.array(differences, dtype=np.float64).round(9)


def gains(panels: Sequence[Panel]) -> tuple[dict[str, dict[int, Interval]], int]:
    """Return each variant's gain over no prompt by M, over the tasks finished for every M.

    Returns:
        variant -> M -> gain, and the number of tasks; empty if no task has every M.
    """
    panels = [p for p in panels if REFERENCE in p.variants and p.common_tasks(p.variants)]
    names = [set(panel.common_tasks(panel.variants)) for panel in panels]
    tasks = sorted(set[str].intersection(*names)) if names else []
    found: dict[str, dict[int, Interval]] = {}
    for panel in panels if tasks else ():
        accuracies = panel.accuracies(panel.variants, tasks)
        plain = accuracies[panel.variants.index(REFERENCE)]
        for variant, row in zip(panel.variants, accuracies, strict=True):
            if variant != REFERENCE:
                found.setdefault(variant, {})[panel.num_sources] = t_interval(row - plain)
    return found, len(tasks)


def gain_table(by_variant: dict[str, dict[int, Interval]]) -> str:
    """Gains over no prompt, with t-intervals over tasks."""
    numbers = sorted({num for by_num in by_variant.values() for num in by_num})
    rows = [
        [variant, *(str(by_num[num]) if num in by_num else _ABSENT for num in numbers)]
        for variant, by_num in by_variant.items()
    ]
    return table(["method", *(f"M = {num}" for num in numbers)], rows)


def task_table(panel: Panel) -> str:
    """Accuracy of each variant in each task, with the deviation over seeds, and group means."""
    variants, tasks = panel.variants, panel.common_tasks(panel.variants)
    accuracies = panel.accuracies(variants, tasks)
    rows: list[list[str]] = []
    for task, column in zip(tasks, accuracies.T, strict=True):
        seeds = panel.common_seeds(task, variants)
        entries: list[str] = []
        for variant, mean in zip(variants, column, strict=True):
            values = panel.by_seed(variant, task, seeds)
            spread = f" ± {values.std(ddof=1):.3f}" if len(seeds) > 1 else ""
            text = f"{mean:.3f}{spread}"
            entries.append(f"**{text}**" if mean == column.max() else text)
        rows.append([f"{task} ({group_of(task)})", *entries])
    groups = [group_of(task) for task in tasks]
    for group in sorted(set(groups)):
        members = np.array([g == group for g in groups])
        means = accuracies[:, members].mean(1)
        rows.append([f"*{group} ({members.sum()})*", *(f"*{mean:.3f}*" for mean in means)])
    return table(["task", *variants], rows)


def chosen_table(panels: Sequence[Panel]) -> str | None:
    """What `hgprompt` served, over all its cells."""
    counts: dict[int, Counter[str]] = {}
    for panel in panels:
        for seeds in panel.records.get(OURS, {}).values():
            for record in seeds.values():
                tuned = ", tuned" if record.chosen.tuned else ""
                counts.setdefault(panel.num_sources, Counter())[record.chosen.method + tuned] += 1
    if not counts:
        return None
    names = sorted({name for counter in counts.values() for name in counter})
    rows = [
        [name, *(f"{counter[name]} of {counter.total()}" for counter in counts.values())]
        for name in names
    ]
    return table(["served by hgprompt", *(f"M = {num}" for num in counts)], rows)


def optimism_table(panel: Panel) -> str:
    """Held-out accuracy of what was served minus its test accuracy, and what choosing adds to it.

    The latter is that difference less the one of the average single source, untuned, of the same
    fits: nothing chose those, so theirs is how much easier the held-out images were.
    """
    rows: list[list[str]] = []
    for variant, by_task in panel.records.items():
        records = [record for seeds in by_task.values() for record in seeds.values()]
        by_choosing = _by_task(by_task, _optimism_by_choosing)
        ece = np.array([record.test_ece for record in records])
        rows.append(
            [
                variant,
                str(t_interval(_by_task(by_task, _excess))),
                str(t_interval(by_choosing)) if len(by_choosing) else _ABSENT,
                f"{ece.mean():.3f}",
                str(len(records)),
            ]
        )
    header = ["method", "held-out minus test accuracy", "by choosing", "ECE on test", "cells"]
    return table(header, rows)


def _excess(record: CellRecord) -> float:
    return record.chosen.accuracy - record.test_accuracy


def _optimism_by_choosing(record: CellRecord) -> float | None:
    """None where the fit did not try the sources one by one."""
    singles = [p for p in record.leaderboard if p.method == "single" and not p.tuned]
    if not singles:
        return None
    return _excess(record) - float(np.mean([p.accuracy - p.test_accuracy for p in singles]))


def _by_task(by_task: dict[str, Seeds], of: Callable[[CellRecord], float | None]) -> Floats:
    """Means over the seeds of a task, (n,) for the n tasks that have any."""
    found = [[v for r in seeds.values() if (v := of(r)) is not None] for seeds in by_task.values()]
    return np.array([np.mean(values) for values in found if values], dtype=np.float64)
