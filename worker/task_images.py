"""Labelled images of an archive as tensors for the backbone."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from images.archive import iter_labelled_images
from images.decoding import ImageLimits, decode_image
from images.errors import ArchiveError, ImageDecodeError
from images.labelled import ArchiveLimits
from images.preprocessing import Preprocessing, preprocess


@dataclass(frozen=True)
class TaskImages:
    """A labelled task in memory.

    Attributes:
        pixels: (N, 3, H, W) uint8.
        labels: (N,) int64, indices into `classes`.
        classes: The C class names, sorted.
    """

    pixels: Tensor
    labels: Tensor
    classes: tuple[str, ...]


def load_task_images(
    path: Path, preprocessing: Preprocessing, *, on_image: Callable[[], None] = lambda: None
) -> TaskImages:
    """Decode and preprocess all images of an archive or folder.

    Raises:
        ArchiveError: The archive breaks a limit or is no archive of labelled images, is empty, or
            holds an image that cannot be decoded; the message names it.
    """
    arrays: list[np.ndarray] = []
    labels: list[str] = []
    for image in iter_labelled_images(path, ArchiveLimits()):
        try:
            decoded = decode_image(image.data, ImageLimits())
        except ImageDecodeError as error:
            raise ArchiveError(f"entry {image.name!r}: {error}") from error
        arrays.append(preprocess(decoded, preprocessing))
        labels.append(image.label)
        on_image()
    if not arrays:
        raise ArchiveError(f"{path} holds no images; expected one folder a class")
    classes = tuple(sorted(set(labels)))
    index = {name: i for i, name in enumerate(classes)}
    return TaskImages(
        pixels=torch.from_numpy(np.stack(arrays)),
        labels=torch.tensor([index[label] for label in labels]),
        classes=classes,
    )
