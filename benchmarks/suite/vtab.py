"""VTAB-1k as it is commonly kept on disk (it is not shipped and not fetched).

    ROOT/<data set>/images/...
    ROOT/<data set>/train800val200.txt      lines `relative/path.jpg label`
    ROOT/<data set>/train800.txt, val200.txt    instead of that one
    ROOT/<data set>/test.txt

The 1,000 images of training and validation are the pool. The fit divides them 800 to 200 itself,
by its seed and stratified, instead of once for all seeds as the files do.
"""

import hashlib
import zipfile
from pathlib import Path

import numpy as np
import torch

from benchmarks.suite.errors import SuiteError
from benchmarks.suite.subsets import draw_test_rows
from benchmarks.suite.target_tasks import TargetTask
from images.decoding import ImageLimits, decode_image
from images.errors import ImageDecodeError
from images.preprocessing import Preprocessing, preprocess
from worker.task_images import TaskImages

_POOL_LISTS = (("train800val200.txt",), ("train800.txt", "val200.txt"))
_TEST_LIST = "test.txt"


class VtabTasks:
    """The data sets of a VTAB-1k folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def names(self) -> list[str]:
        """Return the data sets that are there, sorted."""
        return sorted(
            path.parent.name
            for path in self.folder.glob(f"*/{_TEST_LIST}")
            if _pool_lists(path.parent) is not None
        )

    def load(
        self, name: str, preprocessing: Preprocessing, max_test_images: int | None
    ) -> TargetTask:
        """Decode a data set's pool and at most `max_test_images` of its test images.

        The digest covers every listed file, those that are not decoded too: all are read once.

        Raises:
            SuiteError: A list or an image is missing or invalid; the message names it.
        """
        root = self.folder / name
        pool, test = read_pool(root), _read_list(root / _TEST_LIST)
        num_classes = 1 + max(label for _, label in [*pool, *test])
        rows = draw_test_rows(len(test), max_test_images).tolist()
        return TargetTask(
            name=name,
            pool=_decode(root, pool, num_classes, preprocessing),
            test=_decode(root, [test[row] for row in rows], num_classes, preprocessing),
            digest=_digest(root, pool, test),
        )


def read_pool(root: Path) -> list[tuple[str, int]]:
    """Return the paths and labels of a data set's training and validation images.

    Raises:
        SuiteError: The lists are missing or invalid.
    """
    names = _pool_lists(root)
    if names is None:
        raise SuiteError(f"{root} has neither {' nor '.join(' and '.join(n) for n in _POOL_LISTS)}")
    return [entry for name in names for entry in _read_list(root / name)]


def write_pool_archive(root: Path, path: Path) -> int:
    """Write a data set's pool as an archive with a folder per class, for `train-prompt`.

    Returns:
        The number of images.

    Raises:
        SuiteError: A list or an image is missing or invalid.
    """
    pool = read_pool(root)
    width = len(str(max(label for _, label in pool)))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
        for number, (name, label) in enumerate(pool):
            suffix = Path(name).suffix
            archive.writestr(f"{label:0{width}d}/{number:05d}{suffix}", _read(root / name))
    partial.replace(path)
    return len(pool)


def _pool_lists(root: Path) -> tuple[str, ...] | None:
    found = (names for names in _POOL_LISTS if all((root / name).is_file() for name in names))
    return next(found, None)


def _read_list(path: Path) -> list[tuple[str, int]]:
    if not path.is_file():
        raise SuiteError(f"no file {path}")
    entries: list[tuple[str, int]] = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        name, _, label = line.strip().rpartition(" ")
        if not name or not label.isdecimal():
            raise SuiteError(f"{path}, line {number}: {line!r} is not `relative/path label`")
        entries.append((name.strip(), int(label)))
    if not entries:
        raise SuiteError(f"{path} lists no images")
    return entries


def _digest(root: Path, pool: list[tuple[str, int]], test: list[tuple[str, int]]) -> str:
    """Return `sha256:<hex>` over paths, labels and the bytes of all images, one file at a time."""
    sha256 = hashlib.sha256()
    for half in (pool, test):
        sha256.update(b"%d images\n" % len(half))
        for name, label in half:
            sha256.update(f"{name} {label}\n".encode())
            sha256.update(_file_digest(root / name))
    return f"sha256:{sha256.hexdigest()}"


def _file_digest(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise _unreadable(path, error) from error


def _decode(
    root: Path, entries: list[tuple[str, int]], num_classes: int, preprocessing: Preprocessing
) -> TaskImages:
    arrays: list[np.ndarray] = []
    for name, _ in entries:
        try:
            image = decode_image(_read(root / name), ImageLimits())
        except ImageDecodeError as error:
            raise SuiteError(f"{root / name}: {error}") from error
        arrays.append(preprocess(image, preprocessing))
    return TaskImages(
        pixels=torch.from_numpy(np.stack(arrays)),
        labels=torch.tensor([label for _, label in entries]),
        classes=tuple(str(label) for label in range(num_classes)),
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> SuiteError:
    return SuiteError(f"{path} cannot be read: {error}")
