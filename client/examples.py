"""The example prompts and tasks that the demo uploads."""

import random
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from client.errors import ClientError

MIN_SOURCES = 2
DEMO_SOURCES = frozenset(
    {
        "climate-zone",
        "count",
        "fashion-mnist",
        "mnist",
        "sprite-location",
        "sprite-orientation",
        "sprite-scale",
        "sprite-shape",
    }
)
"""The example prompts that the demo mixes: with all of them its fit would take longer."""

DEMO_TASK = "digits"


@dataclass(frozen=True)
class HeldOutImage:
    """An image that the fit does not get to see, and its true class."""

    name: str
    label: str
    data: bytes


@dataclass(frozen=True)
class ExampleTask:
    """A task folder: `train.zip` to learn from, `test.zip` to be judged on."""

    name: str
    train: Path
    test: Path


def find_examples(given: Path | None, candidates: Iterable[Path]) -> Path:
    """The folder with `prompts/` and `tasks/`: the one given, else the first that exists.

    Raises:
        ClientError: If there is none.
    """
    for folder in [given] if given is not None else candidates:
        if (folder / "prompts").is_dir() and (folder / "tasks").is_dir():
            return folder
    where = f"{given} has no prompts/ and tasks/" if given else "no examples folder found"
    raise ClientError(f"{where}; pass the examples folder of the source tree by --examples")


def example_task(examples: Path, name: str | None) -> ExampleTask:
    """A task of the examples; if none is named the demo's, or the first by name.

    Raises:
        ClientError: If there is no such task.
    """
    found = {
        folder.parent.name: folder.parent for folder in (examples / "tasks").glob("*/train.zip")
    }
    names = sorted(found)
    chosen = name or (DEMO_TASK if DEMO_TASK in found else next(iter(names), None))
    if chosen is None or chosen not in found:
        there = ", ".join(names) or "none"
        raise ClientError(f"no task {name or ''} with a train.zip in {examples / 'tasks'}: {there}")
    folder = found[chosen]
    if not (folder / "test.zip").is_file():
        raise ClientError(f"{folder} has no test.zip")
    return ExampleTask(chosen, folder / "train.zip", folder / "test.zip")


def source_prompts(examples: Path, task: ExampleTask) -> list[Path]:
    """The prompts to mix, without the one that was trained on the task itself.

    Of the source tree's example prompts the demo's eight; of another folder's all.

    Raises:
        ClientError: If too few are left to mix.
    """
    files = sorted((examples / "prompts").glob("*.safetensors"))
    files = [file for file in files if file.stem in DEMO_SOURCES] or files
    files = [file for file in files if file.stem != task.name]
    if len(files) < MIN_SOURCES:
        raise ClientError(
            f"{len(files)} source prompts in {examples / 'prompts'}, need {MIN_SOURCES}"
        )
    return files


def held_out_images(task: ExampleTask, limit: int, seed: int) -> list[HeldOutImage]:
    """Up to `limit` images of `test.zip`, drawn at random without replacement.

    Raises:
        ClientError: If the archive cannot be read or is empty.
    """
    try:
        with zipfile.ZipFile(task.test) as archive:
            names = sorted(_image_names(archive))
            chosen = random.Random(seed).sample(names, min(limit, len(names)))  # noqa: S311  a sample, no secret
            images = [
                HeldOutImage(name, PurePosixPath(name).parent.name, archive.read(name))
                for name in chosen
            ]
    except (OSError, zipfile.BadZipFile) as exc:
        raise ClientError(f"cannot read {task.test}: {exc}") from exc
    if not images:
        raise ClientError(f"{task.test} holds no images")
    return images


def _image_names(archive: zipfile.ZipFile) -> Iterator[str]:
    for info in archive.infolist():
        path = PurePosixPath(info.filename)
        if not info.is_dir() and not path.name.startswith(".") and path.parent.name:
            yield info.filename
