"""Crops of scikit-image's photographs: depth of a scene, and texture."""

import io
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.tasks.examples import Example, Task
from benchmarks.tasks.packages import Package

PACKAGE = Package(
    registry="pip",
    name="scikit-image",
    version="0.26.0",
    filename="scikit_image-0.26.0-cp311-cp311-manylinux_2_24_x86_64.manylinux_2_28_x86_64.whl",
    sha256="74aa5518ccea28121f57a95374581d3b979839adc25bb03f289b1bc9b99c58af",
    platforms=("manylinux_2_24_x86_64", "manylinux_2_28_x86_64"),
)
FOLDER = "skimage/data"
DEPTH_CLASSES = ("far", "middle", "near", "nearest")
DEPTH_CROP_PX, DEPTH_STRIDE_PX, DEPTH_BLOCKS = 56, 10, (4, 6)
MIN_MEASURED = 0.5
TEXTURES = {
    "brick": "brick.png",
    "coins": "coins.png",
    "grass": "grass.png",
    "gravel": "gravel.png",
    "moon": "moon.png",
    "page": "page.png",
    "stars": "hubble_deep_field.jpg",
    "tissue": "ihc.png",
}
TEXTURE_CROP_PX, TEXTURE_STRIDE_PX, TEXTURE_POOL_SHARE = 64, 16, 0.55


def build_depth(cache: Path, _rng: np.random.Generator) -> Task:
    """Return crops labelled by quartile of disparity; alternate blocks of the photo are test."""
    names = [f"{FOLDER}/motorcycle_left.png", f"{FOLDER}/motorcycle_disp.npz"]
    png, npz = PACKAGE.read(cache, names)
    photo = Image.open(io.BytesIO(png)).convert("RGB")
    disparity = np.load(io.BytesIO(npz))["arr_0"]
    edges = np.quantile(disparity[np.isfinite(disparity)], (0.25, 0.5, 0.75))
    halves: tuple[list[Example], list[Example]] = ([], [])
    rows, columns = DEPTH_BLOCKS
    height, width = photo.height // rows, photo.width // columns
    for block in range(rows * columns):
        row, column = divmod(block, columns)
        region = (column * width, row * height, (column + 1) * width, (row + 1) * height)
        half = halves[(row + column) % 2]
        for box in _boxes(region, DEPTH_CROP_PX, DEPTH_STRIDE_PX):
            left, top, right, bottom = box
            measured = disparity[top:bottom, left:right]
            measured = measured[np.isfinite(measured)]
            if measured.size < MIN_MEASURED * DEPTH_CROP_PX**2:
                continue
            label = DEPTH_CLASSES[int(np.searchsorted(edges, np.median(measured)))]
            half.append(Example(label, partial(photo.crop, box)))
    return Task(*halves)


def build_texture(cache: Path, _rng: np.random.Generator) -> Task:
    """Return crops of eight photographs: the left of each is the pool, the right is test."""
    task = Task([], [])
    contents = PACKAGE.read(cache, [f"{FOLDER}/{name}" for name in TEXTURES.values()])
    for label, content in zip(TEXTURES, contents, strict=True):
        photo = Image.open(io.BytesIO(content)).convert("L")
        middle = round(photo.width * TEXTURE_POOL_SHARE)
        left = (0, 0, middle, photo.height)
        right = (middle, 0, photo.width, photo.height)
        for half, region in ((task.pool, left), (task.test, right)):
            half.extend(
                Example(label, partial(photo.crop, box))
                for box in _boxes(region, TEXTURE_CROP_PX, TEXTURE_STRIDE_PX)
            )
    return task


def _boxes(
    region: tuple[int, int, int, int], size_px: int, stride_px: int
) -> list[tuple[int, int, int, int]]:
    left, top, right, bottom = region
    return [
        (x, y, x + size_px, y + size_px)
        for y in range(top, bottom - size_px + 1, stride_px)
        for x in range(left, right - size_px + 1, stride_px)
    ]
