"""Drawn sprites in the manner of dSprites (Matthey et al., 2017): one factor is the label."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from PIL import Image, ImageDraw

from benchmarks.tasks.examples import Example, Task

SIZE_PX = 64
SUPERSAMPLING = 4
SHAPES = ("square", "ellipse", "heart")
LOCATIONS, ORIENTATIONS, SCALES = 8, 8, 6
MARGIN = 0.22
MIN_RADIUS, MAX_RADIUS = 0.08, 0.20
# Bins are drawn without their outer tenths, so that neighbouring classes do not touch.
BIN_EDGE = 0.1


@dataclass(frozen=True)
class Sprite:
    """One shape: centre and radius as shares of the image, rotation in turns."""

    shape: str
    x: float
    y: float
    radius: float
    turn: float

    def outline(self) -> np.ndarray:
        """Return the outline's points, shape (n, 2), as shares of the image."""
        t = np.linspace(0, 2 * np.pi, 96, endpoint=False)
        if self.shape == "square":
            reach = 1 / np.maximum(abs(np.cos(t)), abs(np.sin(t)))
            points = np.stack((reach * np.cos(t), reach * np.sin(t)), 1) * 0.8
        elif self.shape == "ellipse":
            points = np.stack((np.cos(t), 0.55 * np.sin(t)), 1)
        else:
            x = np.sin(t) ** 3
            y = (13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)) / 16
            points = np.stack((x, -y), 1)
        angle = 2 * np.pi * self.turn
        rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        return (points * self.radius) @ rotation + (self.x, self.y)


def draw(sprite: Sprite) -> Image.Image:
    """Draw a white sprite on black with smooth edges."""
    large = SIZE_PX * SUPERSAMPLING
    image = Image.new("L", (large, large))
    outline = [(float(x) * large, float(y) * large) for x, y in sprite.outline()]
    ImageDraw.Draw(image).polygon(outline, fill=255)
    return image.resize((SIZE_PX, SIZE_PX), Image.Resampling.BOX)


def build_shape(rng: np.random.Generator, num_pool: int, num_test: int) -> Task:
    """Label: the shape."""
    return _build(
        rng,
        (num_pool, num_test),
        lambda sprite, index: replace(sprite, shape=SHAPES[index]),
        SHAPES,
    )


def build_location(rng: np.random.Generator, num_pool: int, num_test: int) -> Task:
    """Label: where the sprite is from left to right, in eight bins."""
    return _build(
        rng,
        (num_pool, num_test),
        lambda sprite, index: replace(sprite, x=_coordinate(index, rng)),
        tuple(f"column-{index}" for index in range(LOCATIONS)),
    )


def build_row(rng: np.random.Generator, num_pool: int, num_test: int) -> Task:
    """Label: where the sprite is from top to bottom, in eight bins."""
    return _build(
        rng,
        (num_pool, num_test),
        lambda sprite, index: replace(sprite, y=_coordinate(index, rng)),
        tuple(f"row-{index}" for index in range(LOCATIONS)),
    )


def build_orientation(rng: np.random.Generator, num_pool: int, num_test: int) -> Task:
    """Label: a heart's rotation, in eight bins (the other shapes look alike turned)."""
    return _build(
        rng,
        (num_pool, num_test),
        lambda sprite, index: replace(sprite, shape="heart", turn=within(index, ORIENTATIONS, rng)),
        tuple(f"turn-{index}-of-{ORIENTATIONS}" for index in range(ORIENTATIONS)),
    )


def build_scale(rng: np.random.Generator, num_pool: int, num_test: int) -> Task:
    """Label: the sprite's size, in six bins."""
    return _build(
        rng,
        (num_pool, num_test),
        lambda sprite, index: replace(
            sprite,
            radius=MIN_RADIUS + (MAX_RADIUS - MIN_RADIUS) * within(index, SCALES, rng),
        ),
        tuple(f"scale-{index}" for index in range(SCALES)),
    )


def within(index: int, bins: int, rng: np.random.Generator) -> float:
    """Return a random place in [0, 1) inside one of so many equal bins, away from its edges."""
    return (index + rng.uniform(BIN_EDGE, 1 - BIN_EDGE)) / bins


def _build(
    rng: np.random.Generator,
    counts: tuple[int, int],
    place: Callable[[Sprite, int], Sprite],
    labels: tuple[str, ...],
) -> Task:
    """Draw the pool, then the test; `place` puts a sprite into the class of an index."""
    classes = len(labels)

    def half(count: int) -> list[Example]:
        sprites = (place(_random_sprite(rng), number % classes) for number in range(count))
        return [
            Example(labels[number % classes], partial(draw, sprite))
            for number, sprite in enumerate(sprites)
        ]

    return Task(*(half(count) for count in counts))


def _coordinate(index: int, rng: np.random.Generator) -> float:
    """Return a random place in one of the bins that a sprite's centre can be in."""
    return MARGIN + (1 - 2 * MARGIN) * within(index, LOCATIONS, rng)


def _random_sprite(rng: np.random.Generator) -> Sprite:
    x, y = rng.uniform(MARGIN, 1 - MARGIN, 2)
    radius = rng.uniform(MIN_RADIUS, MAX_RADIUS)
    shape = SHAPES[int(rng.integers(len(SHAPES)))]
    return Sprite(shape, float(x), float(y), float(radius), float(rng.uniform()))
