"""Drawn scenes of one or two coloured shapes: where they point, how they lie, how many corners."""

from collections.abc import Callable
from functools import partial

import numpy as np
from PIL import Image, ImageDraw

from benchmarks.tasks.backgrounds import gradient
from benchmarks.tasks.examples import Example, Task
from benchmarks.tasks.sprites import SHAPES, Sprite, within

SIZE_PX = 96
SUPERSAMPLING = 3
DIRECTIONS, DISTANCES = 8, 6
MIN_CORNERS, MAX_CORNERS = 3, 8
GAP_TURN = 0.14

Outline = list[tuple[float, float]]
Scene = Callable[[int, np.random.Generator], list[Outline]]
"""Outlines, as shares of the image, of a scene of the class with this index."""


def build_gap(rng: np.random.Generator, num_pool: int, num_test: int) -> Task:
    """Label: where the gap of a Landolt ring is, in eight directions."""
    labels = [f"gap-{index}-of-{DIRECTIONS}" for index in range(DIRECTIONS)]
    return _build(rng, (num_pool, num_test), labels, _ring)


def build_bearing(rng: np.random.Generator, num_pool: int, num_test: int) -> Task:
    """Label: in which of eight directions the small shape lies from the large one."""
    labels = [f"bearing-{index}-of-{DIRECTIONS}" for index in range(DIRECTIONS)]
    return _build(rng, (num_pool, num_test), labels, _satellite)


def build_distance(rng: np.random.Generator, num_pool: int, num_test: int) -> Task:
    """Label: how far apart two shapes are, in six bins."""
    labels = [f"distance-{index}" for index in range(DISTANCES)]
    return _build(rng, (num_pool, num_test), labels, _pair)


def build_corners(rng: np.random.Generator, num_pool: int, num_test: int) -> Task:
    """Label: how many corners a polygon has, three to eight."""
    labels = [f"corners-{corners}" for corners in range(MIN_CORNERS, MAX_CORNERS + 1)]
    return _build(rng, (num_pool, num_test), labels, _polygon)


def _build(
    rng: np.random.Generator, counts: tuple[int, int], labels: list[str], scene: Scene
) -> Task:
    """Give the classes as many examples each, every scene with a seed of its own."""

    def half(count: int) -> list[Example]:
        indices = [number % len(labels) for number in range(count)]
        seeds = rng.integers(2**63, size=count).tolist()
        return [
            Example(labels[index], partial(_draw, scene, index, seed), jpeg=True)
            for index, seed in zip(indices, seeds, strict=True)
        ]

    return Task(*(half(count) for count in counts))


def _draw(scene: Scene, index: int, seed: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    large = SIZE_PX * SUPERSAMPLING
    image = gradient(large, rng)
    pencil = ImageDraw.Draw(image)
    for outline in scene(index, rng):
        points = [(x * large, y * large) for x, y in outline]
        red, green, blue = (int(level) for level in rng.integers(0, 256, 3))
        pencil.polygon(points, fill=(red, green, blue), outline="black", width=SUPERSAMPLING)
    return image.resize((SIZE_PX, SIZE_PX), Image.Resampling.BOX)


def _ring(index: int, rng: np.random.Generator) -> list[Outline]:
    x, y = rng.uniform(0.28, 0.72, 2)
    outer = rng.uniform(0.12, 0.24)
    inner = outer * rng.uniform(0.5, 0.65)
    gap = 2 * np.pi * within(index, DIRECTIONS, rng)
    arc = gap + np.linspace(np.pi * GAP_TURN, 2 * np.pi - np.pi * GAP_TURN, 64)
    radii = np.repeat([outer, inner], len(arc))
    angles = np.concatenate((arc, arc[::-1]))
    return [_points(x + radii * np.cos(angles), y + radii * np.sin(angles))]


def _satellite(index: int, rng: np.random.Generator) -> list[Outline]:
    x, y = rng.uniform(0.38, 0.62, 2)
    angle = 2 * np.pi * within(index, DIRECTIONS, rng)
    reach = rng.uniform(0.22, 0.30)
    small = (x + reach * np.cos(angle), y + reach * np.sin(angle))
    return [_shape(x, y, 0.12, rng), _shape(*small, 0.06, rng)]


def _pair(index: int, rng: np.random.Generator) -> list[Outline]:
    apart = 0.2 + 0.5 * within(index, DISTANCES, rng)
    while True:
        angle = rng.uniform(0, 2 * np.pi)
        x, y = rng.uniform(0.12, 0.88, 2)
        x2, y2 = x + apart * np.cos(angle), y + apart * np.sin(angle)
        if max(abs(x2 - 0.5), abs(y2 - 0.5)) <= 0.38:  # noqa: PLR2004  inside the image
            return [_shape(x, y, rng.uniform(0.05, 0.1), rng) for x, y in ((x, y), (x2, y2))]


def _polygon(index: int, rng: np.random.Generator) -> list[Outline]:
    corners = MIN_CORNERS + index
    x, y = rng.uniform(0.3, 0.7, 2)
    radius = rng.uniform(0.14, 0.26)
    steps = np.arange(corners) + rng.uniform(-0.12, 0.12, corners)
    angles = 2 * np.pi * (steps / corners + rng.uniform())
    radii = radius * rng.uniform(0.9, 1.1, corners)
    return [_points(x + radii * np.cos(angles), y + radii * np.sin(angles))]


def _shape(x: float, y: float, radius: float, rng: np.random.Generator) -> Outline:
    kind = SHAPES[int(rng.integers(len(SHAPES)))]
    outline = Sprite(kind, x, y, radius, float(rng.uniform())).outline()
    return _points(outline[:, 0], outline[:, 1])


def _points(x: np.ndarray, y: np.ndarray) -> Outline:
    return [(float(a), float(b)) for a, b in zip(x, y, strict=True)]
