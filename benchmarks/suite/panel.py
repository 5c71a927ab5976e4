"""The finished cells of one number of shots and sources, side by side."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.suite.cells import Cell
from benchmarks.suite.intervals import Floats
from benchmarks.suite.records import CellRecord
from benchmarks.suite.subsets import Shots

Seeds = dict[int, CellRecord]


@dataclass(frozen=True)
class Panel:
    """Results by variant, task and seed.

    Attributes:
        shots: Images a class.
        num_sources: M; variants without sources stand in every panel of these shots.
        records: variant -> task -> seed -> cell.
    """

    shots: Shots
    num_sources: int
    records: dict[str, dict[str, Seeds]]

    @property
    def variants(self) -> list[str]:
        """The variants that have any cell."""
        return list(self.records)

    def common_seeds(self, task: str, variants: Sequence[str]) -> list[int]:
        """Return the seeds for which every one of the variants finished the task."""
        seeds = [set(self.records[variant].get(task, {})) for variant in variants]
        return sorted(set[int].intersection(*seeds))

    def common_tasks(self, variants: Sequence[str]) -> list[str]:
        """Return the tasks that every one of the variants finished for a common seed."""
        tasks = {task for variant in variants for task in self.records[variant]}
        return sorted(task for task in tasks if self.common_seeds(task, variants))

    def without(self, tasks: Collection[str]) -> "Panel":
        """Return the panel of the other tasks."""
        records = {
            variant: {task: seeds for task, seeds in by_task.items() if task not in tasks}
            for variant, by_task in self.records.items()
        }
        kept = {variant: by_task for variant, by_task in records.items() if by_task}
        return Panel(self.shots, self.num_sources, kept)

    def by_seed(self, variant: str, task: str, seeds: Iterable[int]) -> Floats:
        """Return test accuracies, one a seed."""
        records = self.records[variant][task]
        return np.array([records[seed].test_accuracy for seed in seeds])

    def accuracies(self, variants: Sequence[str], tasks: Sequence[str]) -> Floats:
        """Return test accuracies (variants, tasks), averaged over the common seeds.

        Rounded to 9 decimals: the last digits of a mean depend on the order of the seeds, and would
        make a win of a tie.
        """
        seeds = {task: self.common_seeds(task, variants) for task in tasks}
        means = [[self.by_seed(v, task, seeds[task]).mean() for task in tasks] for v in variants]
        return np.array(means).reshape(len(variants), len(tasks)).round(9)

    def correct(self, variant: str, task: str, seeds: Iterable[int]) -> Floats:
        """Return (seeds, images), 1 where a test image was classified correctly."""
        records = self.records[variant][task]
        return np.stack([records[seed].correct() for seed in seeds]).astype(np.float64)


def make_panel(
    cells: dict[Cell, CellRecord], shots: Shots, num_sources: int, variants: Sequence[str]
) -> Panel:
    """Collect the cells of these shots, and of M or of no sources.

    Args:
        cells: All finished cells.
        shots: Images a class.
        num_sources: M.
        variants: Which, in the order of the tables; those without a cell are left out.
    """
    records: dict[str, dict[str, Seeds]] = {}
    for variant in variants:
        by_task: dict[str, Seeds] = {}
        for cell, record in cells.items():
            if (cell.variant, cell.shots) == (variant, shots) and (
                cell.num_sources in (0, num_sources)
            ):
                by_task.setdefault(cell.target, {})[cell.seed] = record
        if by_task:
            records[variant] = by_task
    return Panel(shots, num_sources, records)
