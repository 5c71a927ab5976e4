"""Animal silhouettes, 28 px, ten classes (the zebras keep their stripes)."""

import gzip
import pickletools
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.sparse.csgraph import connected_components

from benchmarks.tasks.examples import Example, Task, divide
from benchmarks.tasks.packages import Package

PACKAGE = Package(
    registry="pip",
    name="animal-shape-mnist",
    version="0.39",
    filename="animal_shape_mnist-0.39-py3-none-any.whl",
    sha256="e97143ae2d7aa6e320af430c9a5ca78fa9fda58b015e6937499e90f127bc95d1",
)
FOLDER = "animal_shape_mnist/data/Animal Shape"
CLASSES = (
    "bear",
    "bird",
    "cat",
    "cow",
    "dog",
    "elephant",
    "giraffe",
    "horse",
    "sheep",
    "zebra",
)


# Squared distance, in units of full pixels, below which two silhouettes are of one picture.
NEAR_DUPLICATE = 15.0


def build(cache: Path, rng: np.random.Generator) -> Task:
    """Return a random division that keeps near-duplicates together and drops duplicates."""
    names = [f"{FOLDER}/animal_{kind}_version_3.gz" for kind in ("data", "label")]
    images, labels = (_array_bytes(data) for data in PACKAGE.read(cache, names))
    pixels = np.frombuffer(images, np.uint8).reshape(-1, 28, 28)
    indices = np.frombuffer(labels, np.int64)
    examples: list[Example] = []
    for index, label in enumerate(CLASSES):
        silhouettes = np.unique(pixels[indices == index], axis=0)
        examples.extend(
            Example(label, partial(Image.fromarray, image), group=str(group))
            for image, group in zip(silhouettes, _near_duplicates(silhouettes), strict=True)
        )
    return divide(examples, rng)


def _near_duplicates(images: np.ndarray) -> np.ndarray:
    """Return a group number for each image of (n, 28, 28); near-duplicates share theirs."""
    flat = images.reshape(len(images), -1) / 255
    squares = (flat**2).sum(1)
    distances = squares[:, None] + squares[None, :] - 2 * flat @ flat.T
    return connected_components(distances < NEAR_DUPLICATE, directed=False)[1]


def _array_bytes(packed: bytes) -> bytes:
    """Return the one array's bytes in a gzipped pickle, which is parsed, never loaded."""
    operations = pickletools.genops(gzip.decompress(packed))
    return max((value for _, value, _ in operations if isinstance(value, bytes)), key=len)
