"""The cells of the suite: what is fitted once, and which of them a run is to compute."""

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from benchmarks.suite.errors import SuiteError
from benchmarks.suite.subsets import Shots


@dataclass(frozen=True)
class Cell:
    """One fit and its test.

    Attributes:
        target: The target task.
        shots: Images a class to fit on, or "full".
        seed: Of the training images, their split, the sources and the fit.
        num_sources: M; 0 for a variant that uses none.
        variant: Name in `benchmarks.suite.variants`.
    """

    target: str
    shots: Shots
    seed: int
    num_sources: int
    variant: str

    def __str__(self) -> str:
        """Say which cell, for people."""
        sources = f", {self.num_sources} sources" if self.num_sources else ""
        return f"{self.target}, {self.shots} shots, seed {self.seed}{sources}, {self.variant}"


class Plan(BaseModel):
    """The cells that a run was asked for.

    Attributes:
        targets: Number of allowed sources of each target task.
        shots: Images a class.
        seeds: Repetitions.
        num_sources: Values of M.
        variants: Whether each variant uses sources.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    targets: dict[str, int]
    shots: tuple[Shots, ...]
    seeds: tuple[int, ...]
    num_sources: tuple[int, ...]
    variants: dict[str, bool]

    def cells(self) -> list[Cell]:
        """Return every possible cell, target by target, in the order of computation."""
        return [
            Cell(target=target, shots=shots, seed=seed, num_sources=num, variant=variant)
            for target, allowed in self.targets.items()
            for shots in self.shots
            for seed in self.seeds
            for num in (0, *self.num_sources)
            for variant, uses_sources in self.variants.items()
            if num <= allowed and uses_sources == (num > 0)
        ]

    def impossible(self) -> dict[str, list[int]]:
        """Return, for each target that has too few sources, the values of M that it cannot do."""
        short = {
            target: [num for num in self.num_sources if num > allowed]
            for target, allowed in self.targets.items()
        }
        return {target: nums for target, nums in short.items() if nums}


def parse_shard(text: str) -> tuple[int, int]:
    """Read `I/K`, shard I of K, 1 <= I <= K.

    Raises:
        SuiteError: It is something else.
    """
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise SuiteError(f"shard {text!r} is not I/K with 1 <= I <= K, such as 1/4")
    return int(index), int(count)


def shard_of(cells: Sequence[Cell], index: int, count: int) -> list[Cell]:
    """Return the I-th of K parts, contiguous, so that a target's features serve one process."""
    start, end = ((i * len(cells)) // count for i in (index - 1, index))
    return list(cells[start:end])
