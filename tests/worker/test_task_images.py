import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from annotated_types import Le
from PIL import Image

from backbones.info import LoadedBackbone
from images.errors import ArchiveError
from images.labelled import ArchiveLimits
from images.preprocessing import preprocess
from prompt_store.checks import MAX_CLASS_CHARACTERS, MAX_CLASSES
from service.settings import ServiceSettings
from worker.task_images import load_task_images, stored_limits


def test_every_image_becomes_pixels_with_the_index_of_its_class(
    backbone: LoadedBackbone, make_folder: Callable[..., tuple[Path, tuple[str, ...]]]
) -> None:
    path, _ = make_folder(zebra=2, ant=3, Bee=1)
    seen: list[None] = []

    task = load_task_images(path, backbone.info.preprocessing, on_image=lambda: seen.append(None))

    assert task.classes == ("Bee", "ant", "zebra")
    assert task.labels.tolist() == [0, 1, 1, 1, 2, 2]
    assert (task.pixels.shape, task.pixels.dtype) == ((6, 3, 32, 32), torch.uint8)
    assert len(seen) == 6
    image = Image.open(path / "ant" / "001.png").convert("RGB")
    expected = preprocess(image, backbone.info.preprocessing)
    assert np.array_equal(task.pixels[2].numpy(), expected)


def test_what_is_taken_can_be_fitted_and_published() -> None:
    """After hours of fitting it is too late to find that an artifact has no room for the classes.

    And a stored image may have as many pixels as the service can be told to take.
    """
    limits = ArchiveLimits()
    assert limits.max_classes <= MAX_CLASSES
    assert limits.max_class_chars <= MAX_CLASS_CHARACTERS
    (bound,) = [
        each.le
        for each in ServiceSettings.model_fields["max_image_pixels"].metadata
        if isinstance(each, Le)
    ]
    assert stored_limits(1).image.max_pixels == bound


def test_a_folder_and_its_zip_are_the_same_task(
    backbone: LoadedBackbone,
    make_folder: Callable[..., tuple[Path, tuple[str, ...]]],
    tmp_path: Path,
) -> None:
    path, _ = make_folder(a=2, b=2)
    archive = shutil.make_archive(str(tmp_path / "archive"), "zip", path)

    folder, zipped = (
        load_task_images(Path(p), backbone.info.preprocessing) for p in (path, archive)
    )

    assert folder.classes == zipped.classes
    order = zipped.labels.argsort(stable=True)
    assert torch.equal(folder.labels, zipped.labels[order])
    rows = {bytes(image.numpy().tobytes()) for image in folder.pixels}
    assert rows == {bytes(image.numpy().tobytes()) for image in zipped.pixels}


def test_copies_are_left_out_within_a_class_but_not_between_classes(
    backbone: LoadedBackbone, make_folder: Callable[..., tuple[Path, tuple[str, ...]]]
) -> None:
    path, _ = make_folder(a=3, b=2)
    for copy in ("a/copy.png", "a/other.png", "b/copy.png"):
        shutil.copy(path / "a" / "001.png", path / copy)
    task = load_task_images(path, backbone.info.preprocessing)
    assert (len(task.labels), task.num_copies) == (8, 0)

    distinct = task.without_copies()

    assert (distinct.labels.tolist(), distinct.num_copies) == ([0, 0, 0, 1, 1, 1], 2)
    assert distinct.classes == task.classes
    assert torch.equal(distinct.pixels[:3], task.pixels[:3])
    assert distinct.without_copies() is distinct


def test_what_another_task_has_is_left_out_whatever_its_class_there(
    backbone: LoadedBackbone, make_folder: Callable[..., tuple[Path, tuple[str, ...]]]
) -> None:
    path, _ = make_folder("test", seed=1, a=2, b=2)
    other, _ = make_folder(a=2, b=2)
    shutil.copy(other / "a" / "000.png", path / "a" / "copy.png")
    shutil.copy(other / "a" / "000.png", path / "b" / "copy.png")
    test, task = (load_task_images(each, backbone.info.preprocessing) for each in (path, other))

    unseen = test.without(task)

    assert (unseen.labels.tolist(), unseen.num_copies) == ([0, 0, 1, 1], 2)
    assert torch.equal(unseen.pixels, test.pixels[[0, 1, 3, 4]])
    assert unseen.without(task) is unseen
    assert len(task.without(task).labels) == 0


def test_an_image_that_cannot_be_decoded_is_named(
    backbone: LoadedBackbone, make_folder: Callable[..., tuple[Path, tuple[str, ...]]]
) -> None:
    path, _ = make_folder(a=2, b=2)
    (path / "b" / "000.png").write_bytes(b"\x89PNG\r\n\x1a\n, but nothing more")

    with pytest.raises(ArchiveError, match=r"entry 'b/000\.png'"):
        load_task_images(path, backbone.info.preprocessing)


def test_a_folder_without_images_is_refused(backbone: LoadedBackbone, tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="holds no images"):
        load_task_images(tmp_path, backbone.info.preprocessing)
