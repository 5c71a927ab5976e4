"""Road signs by category, drawn on random backgrounds."""

import io
import json
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.tasks.backgrounds import gradient
from benchmarks.tasks.examples import Example, Task, divide
from benchmarks.tasks.packages import Package

PACKAGE = Package(
    registry="npm",
    name="mapillary_sprite_source",
    version="1.8.0",
    filename="mapillary_sprite_source-1.8.0.tgz",
    sha256="6266c97de1746319b9437355c853384e1c7dfc1f06973c8c37a3704a8ca763da",
)
CATEGORIES = ("complementary", "information", "regulatory", "warning")
SIZE_PX = 64


def build(cache: Path, rng: np.random.Generator) -> Task:
    """Return signs divided so that variants of a sign (`--g1`, `--g2`) stay together."""
    names = ["package/sprites/sprites@2x.png", "package/sprites/sprites@2x.json"]
    png, table = PACKAGE.read(cache, names)
    sheet = Image.open(io.BytesIO(png)).convert("RGBA")
    examples: list[Example] = []
    for number, (name, place) in enumerate(sorted(json.loads(table).items())):
        category, *rest = name.split("--")
        if category not in CATEGORIES or not rest:
            continue
        x, y = place["x"], place["y"]
        box = (x, y, x + place["width"], y + place["height"])
        seed = int(rng.integers(2**32)) + number
        examples.append(Example(category, partial(_draw, sheet, box, seed), group=rest[0]))
    return divide(examples, rng)


def _draw(sheet: Image.Image, box: tuple[int, int, int, int], seed: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    image = gradient(SIZE_PX, rng)
    sign = sheet.crop(box)
    room = (SIZE_PX - sign.width, SIZE_PX - sign.height)
    offset = (int(rng.integers(max(room[0], 0) + 1)), int(rng.integers(max(room[1], 0) + 1)))
    image.paste(sign, offset, sign)
    return image
