"""Electroluminescence photographs of solar cells: defects, and kind of silicon.

Buerhop-Lutz et al., "A Benchmark for Visual Identification of Defective Solar Cells in
Electroluminescence Imagery", EU PVSEC 2018. Not for commercial use.
"""

import io
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.tasks.examples import Example, Task
from benchmarks.tasks.packages import Package

PACKAGE = Package(
    registry="pip",
    name="elpv-dataset",
    version="1.0.0.post1",
    filename="elpv_dataset-1.0.0.post1-py3-none-any.whl",
    sha256="85e31c1126ee9b48e62d3a0232c58f58b2d189b0814a45c13642fa0415af4a4c",
)
FOLDER = "elpv_dataset/data"
SIZE_PX = 160
# Cells are numbered module by module: whole runs of numbers go to one half or the other.
RUN_LENGTH = 40
TEST_RUNS = (1, 3)
RUN_CYCLE = 5


def build_defect(cache: Path, _rng: np.random.Generator) -> Task:
    """Return the cells that experts were sure of: functional or defective."""
    return _build(
        cache, lambda probability, _: {"0.0": "functional", "1.0": "defective"}.get(probability[:3])
    )


def build_silicon(cache: Path, _rng: np.random.Generator) -> Task:
    """Return all cells labelled monocrystalline or polycrystalline."""
    names = {"mono": "monocrystalline", "poly": "polycrystalline"}
    return _build(cache, lambda _, silicon: names[silicon])


def _build(cache: Path, label_of: Callable[[str, str], str | None]) -> Task:
    task = Task([], [])
    with zipfile.ZipFile(PACKAGE.fetch(cache)) as wheel:
        rows = wheel.read(f"{FOLDER}/labels.csv").decode().splitlines()
        for number, row in enumerate(rows):
            name, probability, silicon = row.split()
            label = label_of(probability, silicon)
            if label is None:
                continue
            half = task.test if number // RUN_LENGTH % RUN_CYCLE in TEST_RUNS else task.pool
            half.append(Example(label, partial(_draw, wheel.read(f"{FOLDER}/{name}")), jpeg=True))
    return task


def _draw(png: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(png)).convert("L")
    return image.resize((SIZE_PX, SIZE_PX), Image.Resampling.BICUBIC)
