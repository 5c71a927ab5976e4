"""Labelled images of an archive as tensors for the backbone."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from images.archive import iter_labelled_images
from images.decoding import ImageLimits, decode_image
from images.errors import ArchiveError, ImageDecodeError
from images.labelled import ArchiveLimits
from images.preprocessing import Preprocessing, preprocess

MAX_STORED_PIXELS = 1_000_000_000
"""As many as the service can be told to take."""


@dataclass(frozen=True)
class TaskImages:
    """A labelled task in memory.

    Attributes:
        pixels: (N, 3, H, W) uint8.
        labels: (N,) int64, indices into `classes`.
        classes: The C class names, sorted.
        num_copies: Images that were left out, equal to another one.
    """

    pixels: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    num_copies: int = 0

    def without_copies(self) -> Self:
        """Leave out images that are equal to another one of their class, pixel by pixel.

        They say nothing new; yet whoever learns from one of two recognises the other, so that an
        accuracy on held-out images would be too high, and the best temperature too low.
        """
        found: dict[tuple[int, bytes], int] = {}
        for row, key in enumerate(zip(self.labels.tolist(), self._digests(), strict=True)):
            found.setdefault(key, row)
        return self._only(list(found.values()))

    def without(self, other: Self) -> Self:
        """Leave out images that `other` has too, whatever their class there."""
        known = set(other._digests())
        return self._only([row for row, each in enumerate(self._digests()) if each not in known])

    def _digests(self) -> list[bytes]:
        return [hashlib.sha256(image.numpy().tobytes()).digest() for image in self.pixels]

    def _only(self, rows: list[int]) -> Self:
        left_out = len(self.labels) - len(rows)
        if not left_out:
            return self
        return replace(
            self,
            pixels=self.pixels[rows],
            labels=self.labels[rows],
            num_copies=self.num_copies + left_out,
        )


@dataclass(frozen=True)
class TaskLimits:
    """How large an archive and its images may be."""

    archive: ArchiveLimits
    image: ImageLimits


DEFAULT_LIMITS = TaskLimits(ArchiveLimits(), ImageLimits())


def stored_limits(size_bytes: int) -> TaskLimits:
    """Return those of an archive of so many bytes that was checked when it was stored.

    The service that took it may have had other limits than are set now, so those that can be set
    do not bind; what is unpacked is still bounded in all.
    """
    archive = ArchiveLimits(max_bytes=size_bytes, max_image_bytes=ArchiveLimits.max_total_bytes)
    image = ImageLimits(max_bytes=archive.max_image_bytes, max_pixels=MAX_STORED_PIXELS)
    return TaskLimits(archive, image)


def load_task_images(
    path: Path,
    preprocessing: Preprocessing,
    *,
    limits: TaskLimits = DEFAULT_LIMITS,
    on_image: Callable[[], None] = lambda: None,
) -> TaskImages:
    """Decode and preprocess all images of an archive or folder.

    Args:
        path: The archive, or a folder with one folder a class.
        preprocessing: What the backbone wants.
        limits: What is refused.
        on_image: Called after each image.

    Raises:
        ArchiveError: The archive breaks a limit or is no archive of labelled images, is empty, or
            holds an image that cannot be decoded; the message names it.
    """
    arrays: list[np.ndarray] = []
    labels: list[str] = []
    for image in iter_labelled_images(path, limits.archive):
        try:
            decoded = decode_image(image.data, limits.image)
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
