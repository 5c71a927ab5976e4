"""Where results come from, and what is missing from them."""

from collections import Counter
from collections.abc import Sequence

from benchmarks.reporting.markdown import table
from benchmarks.suite.cells import Cell
from benchmarks.suite.records import CellRecord, FailureRecord, RunRecord, Setting


def provenance_section(
    settings: Sequence[Setting], runs: Sequence[RunRecord], cells: dict[Cell, CellRecord]
) -> str:
    """Say with what, where and by which commands the cells were computed.

    Args:
        settings: One a folder of results, equal but for the precision.
        runs: Of all folders.
        cells: Of all folders.
    """
    setting = settings[0]
    precisions = " and ".join(dict.fromkeys(each.precision for each in settings))
    used = [run for run in runs if any(record.run == run.run for record in cells.values())]
    expected = expected_cells(runs)
    test = "all" if setting.max_test_images is None else f"at most {setting.max_test_images}"
    lines = [
        f"- {len(cells)} cells finished, {len(expected - cells.keys())} missing of those asked for",
        f"- backbone `{setting.backbone}` ({setting.backbone_digest[:19]}…) in {precisions}",
        f"- {len(setting.prompts)} source prompts; {test} test images a task",
        f"- {setting.tuning_epochs} epochs of tuning where a method tunes",
        *dict.fromkeys(f"- {run.machine}" for run in used),
    ]
    commits = sorted({run.machine.commit or "unknown" for run in used})
    lines.append(f"- commit {', '.join(commits)}" + (" (+: with changes)" if _dirty(used) else ""))
    hours = sum(record.fit_s for record in cells.values()) / 3600
    lines.append(f"- {hours:.2f} hours of fitting, features from the cache not counted")
    commands = "\n".join(dict.fromkeys(run.command for run in used))
    return "\n".join(["## How it was made", "", *lines, "", "```", commands, "```"])


def _dirty(runs: Sequence[RunRecord]) -> bool:
    return any((run.machine.commit or "").endswith("+") for run in runs)


def expected_cells(runs: Sequence[RunRecord]) -> set[Cell]:
    """Return all cells that any run was asked for and that can be computed."""
    return {cell for run in runs for cell in run.plan.cells()}


def missing_section(
    runs: Sequence[RunRecord],
    cells: dict[Cell, CellRecord],
    failures: dict[Cell, FailureRecord],
) -> str:
    """List what was asked for and is not there: unfinished, refused and impossible cells."""
    parts = ["## What is missing"]
    missing = expected_cells(runs) - cells.keys()
    if missing:
        counts = Counter((cell.variant, str(cell.shots), cell.num_sources) for cell in missing)
        rows = [[v, s, str(m), str(n)] for (v, s, m), n in sorted(counts.items())]
        parts.append(table(["method", "shots", "M", "cells not finished"], rows))
    if failures:
        rows = [[str(cell), failure.error] for cell, failure in failures.items()]
        parts.append(table(["refused cell", "error"], rows))
    impossible = {t: nums for run in runs for t, nums in run.plan.impossible().items()}
    if impossible:
        allowed = {t: number for run in runs for t, number in run.plan.targets.items()}
        rows = [
            [target, str(allowed[target]), ", ".join(map(str, numbers))]
            for target, numbers in sorted(impossible.items())
        ]
        parts.append("Too few source prompts that have not seen the target's images:")
        parts.append(table(["target", "allowed sources", "M left out"], rows))
    if len(parts) == 1:
        parts.append("Nothing: every cell that was asked for is there.")
    return "\n\n".join(parts)
