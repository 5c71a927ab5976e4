"""Photographs of clothes, 28 px, ten classes (Xiao, Rasul and Vollgraf, 2017)."""

import gzip
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.tasks.examples import Example, Task
from benchmarks.tasks.packages import Package

PACKAGE = Package(
    registry="apt",
    name="dataset-fashion-mnist",
    version="0.0~git20200523.55506a9-1",
    filename="dataset-fashion-mnist_0.0~git20200523.55506a9-1_all.deb",
    sha256="39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
)
FOLDER = "./usr/share/datasets/fashion-mnist"
CLASSES = (
    "t-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle-boot",
)
# The IDX format: 16 bytes before the images, 8 before the labels.
_IMAGES_OFFSET, _LABELS_OFFSET = 16, 8


def build(cache: Path, _rng: np.random.Generator) -> Task:
    """Return the data set's own training and test halves."""
    halves = [_read_half(cache, prefix) for prefix in ("train", "t10k")]
    return Task(pool=halves[0], test=halves[1])


def _read_half(cache: Path, prefix: str) -> list[Example]:
    names = [f"{FOLDER}/{prefix}-{kind}-ubyte.gz" for kind in ("images-idx3", "labels-idx1")]
    images, labels = (gzip.decompress(data) for data in PACKAGE.read(cache, names))
    pixels = np.frombuffer(images, np.uint8, offset=_IMAGES_OFFSET).reshape(-1, 28, 28)
    indices = np.frombuffer(labels, np.uint8, offset=_LABELS_OFFSET)
    return [
        Example(CLASSES[index], partial(Image.fromarray, image))
        for image, index in zip(pixels, indices, strict=True)
    ]
