"""Labelled examples, how they are divided into pool and test, and how they are written."""

import io
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.tasks.packages import TasksError

MAX_POOL_IMAGES = 3000
MAX_TEST_IMAGES = 1000
TEST_FRACTION = 0.45
"""Share of each class's examples that the test half receives at most."""
JPEG_QUALITY = 92
# A constant date keeps the archives' bytes equal from run to run.
_ZIP_DATE = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Example:
    """A labelled image that is drawn or decoded only if it is chosen.

    Attributes:
        label: The class, which becomes a folder's name.
        draw: Returns the image.
        group: Examples that show nearly the same thing share a group; no group is split.
        jpeg: Whether to write a JPEG: for photographs and noise, which PNG hardly shrinks.
    """

    label: str
    draw: Callable[[], Image.Image]
    group: str = ""
    jpeg: bool = False


@dataclass(frozen=True)
class Task:
    """Examples to learn from (`pool`, training and validation) and to be tested on."""

    pool: list[Example]
    test: list[Example]


def divide(examples: Iterable[Example], rng: np.random.Generator) -> Task:
    """Divide each class's groups at random; an example without a group is its own.

    Args:
        examples: All examples, in any order.
        rng: Source of the shuffle.
    """
    by_label: dict[str, dict[str, list[Example]]] = defaultdict(lambda: defaultdict(list))
    for number, example in enumerate(examples):
        by_label[example.label][example.group or str(number)].append(example)
    task = Task([], [])
    for label in sorted(by_label):
        groups = [by_label[label][name] for name in sorted(by_label[label])]
        room = TEST_FRACTION * sum(len(group) for group in groups)
        for index in rng.permutation(len(groups)):
            group = groups[index]
            half = task.test if len(group) <= room else task.pool
            room -= len(group) if half is task.test else 0
            half.extend(group)
    return task


def balance(examples: Iterable[Example], rng: np.random.Generator, limit: int) -> list[Example]:
    """Choose at most `limit` examples, as evenly over the classes as their sizes allow."""
    by_label: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        by_label[example.label].append(example)
    chosen: list[Example] = []
    # Small classes first, so that what they leave unused goes to the larger ones.
    for remaining, label in zip(
        range(len(by_label), 0, -1),
        sorted(by_label, key=lambda name: (len(by_label[name]), name)),
        strict=True,
    ):
        group = by_label[label]
        share = min((limit - len(chosen)) // remaining, len(group))
        chosen.extend(group[index] for index in rng.permutation(len(group))[:share])
    return chosen


def write_task(
    task: Task,
    folder: Path,
    rng: np.random.Generator,
    *,
    max_pool_images: int = MAX_POOL_IMAGES,
) -> dict[str, dict[str, int]]:
    """Write `pool.zip` and `test.zip` into `folder` and return their class counts.

    Args:
        task: What to write, of each half at most so many, evenly over the classes.
        folder: Where to.
        rng: Source of the choice among too many.
        max_pool_images: Limit of the pool; that of the test is `MAX_TEST_IMAGES`.

    Raises:
        TasksError: The two halves do not have the same classes, at least two.
    """
    pool = balance(task.pool, rng, max_pool_images)
    test = balance(task.test, rng, MAX_TEST_IMAGES)
    classes = {example.label for example in pool}
    if len(classes) < 2 or classes != {example.label for example in test}:  # noqa: PLR2004
        raise TasksError(f"{folder.name}: pool and test need the same classes, two or more")
    folder.mkdir(parents=True, exist_ok=True)
    return {
        "pool": _write_zip(pool, folder / "pool.zip"),
        "test": _write_zip(test, folder / "test.zip"),
    }


def _write_zip(examples: list[Example], path: Path) -> dict[str, int]:
    counts: dict[str, int] = defaultdict(int)
    partial = path.with_suffix(".partial")
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
        for example in sorted(examples, key=lambda each: each.label):
            counts[example.label] += 1
            suffix = "jpg" if example.jpeg else "png"
            name = f"{example.label}/{counts[example.label]:05d}.{suffix}"
            archive.writestr(zipfile.ZipInfo(name, _ZIP_DATE), _encode(example))
    partial.replace(path)
    return dict(counts)


def _encode(example: Example) -> bytes:
    buffer = io.BytesIO()
    if example.jpeg:
        example.draw().save(buffer, "JPEG", quality=JPEG_QUALITY)
    else:
        example.draw().save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
