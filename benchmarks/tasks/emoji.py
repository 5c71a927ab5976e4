"""Emoji by Unicode group, from the colour bitmaps of Noto Color Emoji."""

import io
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.tasks.examples import Example, Task, divide
from benchmarks.tasks.packages import Package

FONT = Package(
    registry="apt",
    name="fonts-noto-color-emoji",
    version="2.042-0+deb12u1",
    filename="fonts-noto-color-emoji_2.042-0+deb12u1_all.deb",
    sha256="a5ab0f69c7938423862320d9aca5dd187b3fd879d6a9a57dd52e17c3fa8d2751",
)
GROUPS = Package(
    registry="apt",
    name="unicode-data",
    version="15.0.0-1",
    filename="unicode-data_15.0.0-1_all.deb",
    sha256="5efef23bbb1c6a133ecbdd63a2cfa07159ccacf5466a49e2426101c5ecd691fc",
)
# Components are parts of other emoji, and nearly all flags are pairs of characters.
EXCLUDED = ("component", "flags")
SIZE_PX = 96


def build(cache: Path, rng: np.random.Generator) -> Task:
    """Return the emoji of one character, divided at random; equal drawings appear once."""
    # The only task that needs this library.
    from fontTools.ttLib import TTFont  # noqa: PLC0415

    (font_file,) = FONT.read(cache, ["./usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"])
    (table,) = GROUPS.read(cache, ["./usr/share/unicode/emoji/emoji-test.txt"])
    font = TTFont(io.BytesIO(font_file))
    characters = font.getBestCmap() or {}
    bitmaps = font["CBDT"].strikeData[0]
    unique: dict[bytes, Example] = {}
    for character, label in _groups(table.decode()):
        glyph = bitmaps.get(characters.get(character, ""))
        if label not in EXCLUDED and glyph is not None:
            png = bytes(glyph.imageData)
            unique.setdefault(png, Example(label, partial(_draw, png)))
    return divide(unique.values(), rng)


def _groups(table: str) -> Iterator[tuple[int, str]]:
    """Yield (character, group) for each emoji of one character in `emoji-test.txt`."""
    label = ""
    for line in table.splitlines():
        if line.startswith("# group: "):
            name = line.removeprefix("# group: ").lower()
            label = name.replace(" & ", "-and-").replace(" ", "-")
        characters = line.split(";")[0].split()
        # U+FE0F only asks for the coloured form of the character before it.
        if not line.startswith("#") and len([c for c in characters if c != "FE0F"]) == 1:
            yield int(characters[0], 16), label


def _draw(png: bytes) -> Image.Image:
    emoji = Image.open(io.BytesIO(png)).convert("RGBA")
    image = Image.new("RGBA", (max(emoji.size), max(emoji.size)), "white")
    image.alpha_composite(emoji, ((image.width - emoji.width) // 2, 0))
    return image.convert("RGB").resize((SIZE_PX, SIZE_PX), Image.Resampling.BICUBIC)
