"""Write the report of one or several results folders: `report.md` and its plots."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.reporting.markdown import folded
from benchmarks.suite import evidence, never_worse, plots, sections
from benchmarks.suite.cells import Cell
from benchmarks.suite.intervals import friedman_p
from benchmarks.suite.learned_weights import learned_weights_table
from benchmarks.suite.panel import Panel, make_panel
from benchmarks.suite.pool import read_pool
from benchmarks.suite.provenance import missing_section, provenance_section
from benchmarks.suite.records import CellRecord
from benchmarks.suite.results_folder import ResultsFolder
from benchmarks.suite.subsets import Shots
from benchmarks.suite.task_groups import SEEN
from benchmarks.suite.tuning import tuning_table
from benchmarks.suite.variants import make_variants

_READING = """\
Accuracies are on test images that no fit saw. The rule by which `hgprompt` chooses among its
candidates was settled, and later changed, with test accuracies of this project's tasks in sight,
and so were parts of the head's calibration and of tuning. Means are over tasks, after the seeds of
a task have been averaged; a table compares its methods on the tasks and seeds that all of them
finished, and a paired difference is over those that both finished.
Intervals are 95 %. Over tasks they are t-intervals of the paired differences with the tasks as
units; they say what to expect of another task like these, and are not corrected for the number of
comparisons. In brackets: tasks won, tied, lost."""

_NEVER_WORSE = """\
The best simple candidate is the one of {simple} with the best *test* accuracy, which
nobody can choose beforehand: a strict yardstick. The interval is over the test images, seeds
averaged, for the training images that were drawn. By chance alone more than one task in forty
would come out as "worse", since the yardstick is the best of several on the same images. So every
method is held against it: on how many tasks it is worse beyond that interval, and beyond the
t-interval over the seeds, which is about other training images and wide with few seeds."""

_LATER = """\
Only tasks whose test images had not been looked at when the choice among candidates was first
settled. When it was changed later they had been, and the test images are the same for all seeds."""

_LEARNED = """\
The learned ensemble of each fit of `hgprompt`, served or not, minus mixtures of other weights
(those of `h_ensemble`, equal ones) and no prompt: the same sources, images and head, nothing tuned
and nothing chosen. *Rule minus rule*: of the learned ensemble, no prompt, the uniform mean and
LogME's source the one of the lowest cross-fitted log-loss, minus the same with the candidate of
`h_ensemble` in the learned one's place. Where `hgprompt` above gains more over `h_ensemble` than
this table does, the gain is that of choosing among candidates and not of the weights."""

_MORE_SOURCES = """\
Each method minus itself with the fewest sources, over the tasks and seeds that it finished with
both."""

_TUNING = """\
Of the fits whose leaderboard has a tuned prompt: an epoch was better held out than the start.
*Minus its start*: the test accuracy of that prompt less that of the same prompt before tuning, over
the tasks that have such fits. *Served minus its start*: the same where the tuned prompt was served,
and nothing where another candidate was, over all tasks."""

_EVIDENCE = """\
How well what a fit knows ranks its candidates: Spearman's rank correlation with the test accuracy
over the M + 3 untuned candidates of a fit, 1 = as the test images do."""

_OPTIMISM = """\
Held-out and test accuracy of what was served, M = {num_sources}. *By choosing*: their difference
less that of the average single source in the same fits, which nothing chose: so much of it comes of
choosing among candidates, and not of which images were held out."""


def write_report(results: Sequence[ResultsFolder], out: Path) -> list[Path]:
    """Write `report.md` and its plots into a folder and return their paths.

    Args:
        results: Folders to be read as one.
        out: Made if it is not there.

    Raises:
        SuiteError: There is no finished cell, a file of the results is damaged, or the folders
            are not to be averaged; see `read_pool`.
    """
    pool = read_pool(results)
    cells, runs = pool.cells, pool.runs
    out.mkdir(parents=True, exist_ok=True)
    files: list[Path] = []
    parts = ["# Results of the suite", _READING, provenance_section(pool.settings, runs, cells)]
    seen: set[Shots] = {cell.shots for cell in cells}
    for shots in sorted(seen, key=_order):
        parts.append(f"## {_title(shots)}")
        parts += _shots_section(make_panels(cells, shots), out, files)
    parts.append(missing_section(runs, cells, pool.failures))
    report = out / "report.md"
    report.write_text("\n\n".join(parts) + "\n")
    return [report, *files]


def make_panels(cells: dict[Cell, CellRecord], shots: Shots) -> list[Panel]:
    """Return a panel for each M that has cells of these shots."""
    # Any budget: only the order of the names is wanted.
    known = list(make_variants(tuning_epochs=1))
    names = sorted({cell.variant for cell in cells})
    variants = sorted(names, key=lambda n: known.index(n) if n in known else len(known))
    numbers = sorted({c.num_sources for c in cells if c.shots == shots and c.num_sources > 0})
    return [make_panel(cells, shots, number, variants) for number in numbers or [0]]


def _order(shots: Shots) -> float:
    return float("inf") if shots == "full" else shots


def _title(shots: Shots) -> str:
    return "At most 1,000 images" if shots == "full" else f"{shots} images a class"


def _shots_section(panels: list[Panel], out: Path, files: list[Path]) -> list[str]:
    """The tables and plots of one number of shots."""
    parts = ["### Mean test accuracy", sections.accuracy_table(panels)]
    differences = sections.difference_table(panels)
    if differences is not None:
        parts += ["### Paired differences", differences]
    learned = learned_weights_table(panels)
    if learned is not None:
        parts += ["### What the learned weights are worth", _LEARNED, learned]
    later = [p for panel in panels if (p := panel.without(SEEN)).common_tasks(p.variants)]
    differences = sections.difference_table(later)
    if differences is not None and len(later[0].common_tasks(later[0].variants)) > 1:
        parts += ["### Paired differences on later tasks", _LATER, sections.accuracy_table(later)]
        parts += [differences]
    panel = sections.main_panel(panels)
    by_group = sections.group_table(panel)
    if by_group is not None:
        parts += [f"### Paired differences by group, M = {panel.num_sources}", by_group]
    more = sections.more_sources_table(panels)
    if more is not None:
        parts += ["### What more sources are worth", _MORE_SOURCES, more]
    tuned = tuning_table(panels)
    if tuned is not None:
        parts += ["### What tuning is worth", _TUNING, tuned]
    parts += _gain_section(panels, out, files)
    tasks = panel.common_tasks(panel.variants)
    if tasks:
        parts += [f"### Tasks, M = {panel.num_sources}", sections.task_table(panel)]
        parts += _rank_section(panel, tasks, out, files)
    parts += _served_section(panels, panel)
    others = [p for p in panels if p is not panel and p.common_tasks(p.variants)]
    parts += [folded(f"Tasks, M = {p.num_sources}", sections.task_table(p)) for p in others]
    return parts


def _gain_section(panels: list[Panel], out: Path, files: list[Path]) -> list[str]:
    gains, num_tasks = sections.gains(panels)
    if not gains:
        return []
    shots = panels[0].shots
    path = out / f"gain-{shots}.svg"
    plots.plot_gain(
        gains, path, reference=sections.REFERENCE, title=f"{_title(shots)}, {num_tasks} tasks"
    )
    files.append(path)
    return [
        "### Gain over no prompt",
        f"Over the {num_tasks} tasks that every method finished for every M shown.",
        sections.gain_table(gains),
        f"![gain against number of sources]({path.name})",
    ]


def _rank_section(panel: Panel, tasks: list[str], out: Path, files: list[Path]) -> list[str]:
    """Win rates and the critical-difference diagram of one panel."""
    variants = panel.variants
    if len(variants) < 2:  # noqa: PLR2004
        return []
    accuracies = panel.accuracies(variants, tasks)
    name = f"{panel.shots}-{panel.num_sources}"
    title = f"{_title(panel.shots)}, M = {panel.num_sources}, {len(tasks)} tasks"
    path = out / f"win-rate-{name}.svg"
    plots.plot_win_rates(variants, accuracies, path, title=title)
    files.append(path)
    parts = ["### Who beats whom", f"![win rates]({path.name})"]
    p = friedman_p(accuracies)
    if p is None:
        return [*parts, "No rank test: it needs 3 methods, 2 tasks, and results that differ."]
    path = out / f"critical-difference-{name}.svg"
    plots.plot_critical_difference(variants, accuracies, path, title=title)
    files.append(path)
    return [
        *parts,
        f"Friedman's test of equal ranks: p = {p:.2g}.",
        "A bar joins methods that Nemenyi's test does not tell apart at 5 %.",
        f"![critical differences]({path.name})",
    ]


def _served_section(panels: list[Panel], panel: Panel) -> list[str]:
    parts: list[str] = []
    verdicts = [(p.num_sources, never_worse.never_worse_table(p)) for p in panels]
    verdicts = [(number, text) for number, text in verdicts if text is not None]
    simple = never_worse.simple_candidates(panels)
    if verdicts:
        parts += ["### Is it ever worse than the best simple candidate?"]
        parts += [_NEVER_WORSE.format(simple=", ".join(f"`{name}`" for name in simple))]
        how_often = never_worse.worse_table(panels)
        parts += [] if how_often is None else [how_often]
        for number, text in verdicts:
            summary, _, rest = text.partition("\n\n")
            parts.append(folded(f"M = {number}. {summary}", rest))
    chosen = sections.chosen_table(panels)
    if chosen is not None:
        parts += ["### What was served", chosen]
    choice = evidence.choice_table(panels)
    if choice is not None:
        parts += [
            "Mean test accuracy of the candidates inside these fits, and what was served minus it:",
            choice,
        ]
    ranks = evidence.evidence_table(panels)
    if ranks is not None:
        parts += [_EVIDENCE, ranks]
    parts += [
        _OPTIMISM.format(num_sources=panel.num_sources),
        sections.optimism_table(panel),
    ]
    return parts
