"""Every task by name."""

import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.tasks import (
    animals,
    arrangements,
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
from benchmarks.tasks.examples import MAX_TEST_IMAGES, Task, write_task

PACKAGED: dict[str, Callable[[Path, np.random.Generator], Task]] = {
    "animal-silhouettes": animals.build,
    "climate-zone": climate.build,
    "depth-bin": photographs.build_depth,
    "digits": digits.build,
    "emoji-group": emoji.build,
    "fashion-mnist": fashion_mnist.build,
    "mnist": mnist.build,
    "road-sign-category": road_signs.build,
    "solar-cell-defect": solar_cells.build_defect,
    "solar-cell-silicon": solar_cells.build_silicon,
    "textile-defect": textile.build,
    "texture": photographs.build_texture,
}
"""Tasks whose images come from packages in the cache folder."""

DRAWN: dict[str, Callable[[np.random.Generator, int, int], Task]] = {
    "count": counting.build,
    "gap-direction": arrangements.build_gap,
    "pair-bearing": arrangements.build_bearing,
    "pair-distance": arrangements.build_distance,
    "polygon-corners": arrangements.build_corners,
    "sprite-location": sprites.build_location,
    "sprite-orientation": sprites.build_orientation,
    "sprite-row": sprites.build_row,
    "sprite-scale": sprites.build_scale,
    "sprite-shape": sprites.build_shape,
}
"""Tasks that are drawn, so many images for the pool and so many for the test."""

NAMES = tuple(sorted({**PACKAGED, **DRAWN}))


def build_task(
    name: str, out: Path, *, cache: Path, seed: int, max_pool_images: int
) -> dict[str, dict[str, int]]:
    """Build a task, write it into the folder `out/name`, and return its class counts.

    A drawn task has other test images with another size of the pool: both come from one stream
    of random numbers, the pool's first.

    Args:
        name: One of `NAMES`.
        out: Folder of all tasks.
        cache: Folder for the packages.
        seed: The name is made part of it: a task comes out the same alone or among others.
        max_pool_images: Images of the pool, fewer where a package has no more.

    Raises:
        TasksError: A package cannot be had, or pool and test have different classes.
    """
    rng = np.random.default_rng((seed, zlib.crc32(name.encode())))
    if name in DRAWN:
        task = DRAWN[name](rng, max_pool_images, MAX_TEST_IMAGES)
    else:
        task = PACKAGED[name](cache, rng)
    return write_task(task, out / name, rng, max_pool_images=max_pool_images)
