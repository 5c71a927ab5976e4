"""Handwritten digits, 8 px, 16 grey levels: the UCI set that scikit-learn carries."""

import gzip
import io
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.tasks.examples import Example, Task, divide
from benchmarks.tasks.packages import Package

PACKAGE = Package(
    registry="pip",
    name="scikit-learn",
    version="1.9.1",
    filename="scikit_learn-1.9.1-cp311-cp311-manylinux_2_27_x86_64.manylinux_2_28_x86_64.whl",
    sha256="52a0703bbc07ad27f560fa63fa68e4c54dd735bfbbf65b4dd3c225dc7547b6df",
    platforms=("manylinux_2_27_x86_64", "manylinux_2_28_x86_64"),
)
GREY_LEVELS = 16


def build(cache: Path, rng: np.random.Generator) -> Task:
    """Return a random division of the 1,797 images."""
    (packed,) = PACKAGE.read(cache, ["sklearn/datasets/data/digits.csv.gz"])
    rows = np.loadtxt(io.BytesIO(gzip.decompress(packed)), delimiter=",")
    return divide((Example(f"digit-{int(row[-1])}", partial(_draw, row[:-1])) for row in rows), rng)


def _draw(row: np.ndarray) -> Image.Image:
    grey = (row.reshape(8, 8) * (255 / GREY_LEVELS)).round().astype(np.uint8)
    return Image.fromarray(grey).resize((32, 32), Image.Resampling.BICUBIC)
