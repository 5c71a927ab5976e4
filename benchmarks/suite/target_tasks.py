"""Target tasks: images to fit on, images to be tested on, and where both come from."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from benchmarks.suite.errors import SuiteError
from benchmarks.suite.subsets import draw_test_rows
from images.preprocessing import Preprocessing
from worker.task_images import TaskImages, load_task_images


@dataclass(frozen=True)
class TargetTask:
    """A target task in memory.

    Attributes:
        name: As it is reported.
        pool: Images to train and validate on.
        test: Images that every method and seed is tested on.
        digest: `sha256:<hex>` over what defines the task, all test images included.
    """

    name: str
    pool: TaskImages
    test: TaskImages
    digest: str


class TaskFolder(Protocol):
    """Where target tasks are on disk."""

    def names(self) -> list[str]:
        """Return the tasks that are there, sorted."""
        ...

    def load(
        self, name: str, preprocessing: Preprocessing, max_test_images: int | None
    ) -> TargetTask:
        """Decode a task's images, of the test images a random choice if there are too many."""
        ...


class ArchiveTasks:
    """Tasks as `python -m benchmarks.tasks` writes them: `NAME/pool.zip` and `NAME/test.zip`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def names(self) -> list[str]:
        """Return the tasks that are there, sorted."""
        pools = (path.parent for path in self.folder.glob("*/pool.zip"))
        return sorted(pool.name for pool in pools if (pool / "test.zip").is_file())

    def load(
        self, name: str, preprocessing: Preprocessing, max_test_images: int | None
    ) -> TargetTask:
        """Decode a task's images.

        Raises:
            SuiteError: Pool and test do not have the same classes.
            ArchiveError: An archive is invalid.
        """
        paths = [self.folder / name / half for half in ("pool.zip", "test.zip")]
        pool, test = (load_task_images(path, preprocessing) for path in paths)
        if pool.classes != test.classes:
            raise SuiteError(
                f"{name}: test.zip has the classes {test.classes}, pool.zip {pool.classes}"
            )
        rows = draw_test_rows(len(test.labels), max_test_images)
        sha256 = hashlib.sha256()
        for path in paths:
            sha256.update(hashlib.sha256(path.read_bytes()).digest())
        return TargetTask(
            name=name,
            pool=pool,
            test=replace(test, pixels=test.pixels[rows], labels=test.labels[rows]),
            digest=f"sha256:{sha256.hexdigest()}",
        )


def without_crop(preprocessing: Preprocessing) -> Preprocessing:
    """Return the backbone's transform with VTAB's resize: to the input size, nothing cut off."""
    return replace(preprocessing, crop_mode="squash", crop_pct=1.0)
