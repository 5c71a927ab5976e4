"""Every task by name."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.tasks import (
    animals,
    climate,
    counting,
    digits,
    emoji,
    fashion_mnist,
    mnist,
    photographs,
    road_signs,
    solar_cells,
    sprites,
    textile,
)
from benchmarks.tasks.examples import Task

TASKS: dict[str, Callable[[Path, np.random.Generator], Task]] = {
    "animal-silhouettes": animals.build,
    "climate-zone": climate.build,
    "count": counting.build,
    "depth-bin": photographs.build_depth,
    "digits": digits.build,
    "emoji-group": emoji.build,
    "fashion-mnist": fashion_mnist.build,
    "mnist": mnist.build,
    "road-sign-category": road_signs.build,
    "solar-cell-defect": solar_cells.build_defect,
    "solar-cell-silicon": solar_cells.build_silicon,
    "sprite-location": sprites.build_location,
    "sprite-orientation": sprites.build_orientation,
    "sprite-scale": sprites.build_scale,
    "sprite-shape": sprites.build_shape,
    "textile-defect": textile.build,
    "texture": photographs.build_texture,
}
