"""What one start of the command is asked for."""

from dataclasses import dataclass
from pathlib import Path

from benchmarks.suite.subsets import Shots
from benchmarks.suite.target_tasks import TaskFolder
from benchmarks.suite.variants import Variant


@dataclass(frozen=True)
class Request:
    """What a run is asked for.

    Attributes:
        tasks: Where the target tasks are.
        targets: Which of them.
        variants: Methods and ablations.
        shots: Images a class.
        seeds: Repetitions.
        num_sources: Values of M.
        max_test_images: At most so many test images a task; None = all.
        tuning_epochs: Budget of every variant that tunes.
        shard: I and K: compute the I-th of K parts.
        cache: Folder for features.
        command: As it was typed.
    """

    tasks: TaskFolder
    targets: tuple[str, ...]
    variants: tuple[Variant, ...]
    shots: tuple[Shots, ...]
    seeds: tuple[int, ...]
    num_sources: tuple[int, ...]
    max_test_images: int | None
    tuning_epochs: int
    shard: tuple[int, int]
    cache: Path
    command: str
