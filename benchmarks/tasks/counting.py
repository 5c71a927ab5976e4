"""How many objects are there? One to six coloured sprites on a drawn background."""

from functools import partial

import numpy as np
from PIL import Image, ImageDraw

from benchmarks.tasks.backgrounds import gradient
from benchmarks.tasks.examples import Example, Task
from benchmarks.tasks.sprites import SHAPES, Sprite

SIZE_PX = 96
SUPERSAMPLING = 3
MAX_COUNT = 6
# Centres at least this far apart, as a share of the image: no sprite hides another.
MIN_DISTANCE = 0.25


def build(rng: np.random.Generator, num_pool: int, num_test: int) -> Task:
    """Return scenes drawn at random, the same number for each count."""
    seeds = rng.integers(2**63, size=num_pool + num_test)
    scenes = [
        Example(
            f"count-{number % MAX_COUNT + 1}",
            partial(_draw, number % MAX_COUNT + 1, seed),
            jpeg=True,
        )
        for number, seed in enumerate(seeds.tolist())
    ]
    return Task(pool=scenes[:num_pool], test=scenes[num_pool:])


def _draw(count: int, seed: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    large = SIZE_PX * SUPERSAMPLING
    image = gradient(large, rng)
    pencil = ImageDraw.Draw(image)
    for x, y in _centres(count, rng):
        shape = SHAPES[int(rng.integers(len(SHAPES)))]
        sprite = Sprite(shape, x, y, float(rng.uniform(0.07, 0.12)), float(rng.uniform()))
        outline = [(float(px) * large, float(py) * large) for px, py in sprite.outline()]
        red, green, blue = (int(level) for level in rng.integers(0, 256, 3))
        pencil.polygon(outline, fill=(red, green, blue), outline="black", width=SUPERSAMPLING)
    return image.resize((SIZE_PX, SIZE_PX), Image.Resampling.BOX)


def _centres(count: int, rng: np.random.Generator) -> list[tuple[float, float]]:
    centres: list[tuple[float, float]] = []
    while len(centres) < count:
        x, y = (float(value) for value in rng.uniform(0.13, 0.87, 2))
        if all(np.hypot(x - other, y - below) >= MIN_DISTANCE for other, below in centres):
            centres.append((x, y))
    return centres
