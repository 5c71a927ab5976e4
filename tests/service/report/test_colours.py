"""The page's colours, as eyes with and without a colour deficiency see them."""

import re
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import service.report
from service.report.charts.scatter import MAX_COLOURS

Colour = NDArray[np.float64]
STYLE = Path(service.report.__file__).parent / "templates" / "style.html.j2"

# Machado, Oliveira and Fernandes 2009: what is left of linear RGB at full severity
DEFICIENCIES = {
    "none": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "tritanopia": np.array(
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ]
    ),
}


def linear(colour: Colour) -> Colour:
    return np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)


def luminance(colour: Colour) -> float:
    return float(linear(colour) @ np.array([0.2126, 0.7152, 0.0722]))


def contrast(first: Colour, second: Colour) -> float:
    """Contrast ratio of WCAG 2, from 1 to 21."""
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def oklab(linear_rgb: Colour) -> Colour:
    """Ottosson 2020: equal distances look about equally different."""
    to_lms = np.array(
        [
            [0.4122214708, 0.5363325363, 0.0514459929],
            [0.2119034982, 0.6806995451, 0.1073969566],
            [0.0883024619, 0.2817188376, 0.6299787005],
        ]
    )
    to_lab = np.array(
        [
            [0.2104542553, 0.7936177850, -0.0040720468],
            [1.9779984951, -2.4285922050, 0.4505937099],
            [0.0259040371, 0.7827717662, -0.8086757660],
        ]
    )
    return to_lab @ np.cbrt(to_lms @ linear_rgb.clip(0, 1))


def schemes() -> dict[str, dict[str, Colour]]:
    """The variables of each scheme; print changes some of the light one."""
    style = STYLE.read_text()
    light, dark, paper = (
        {
            name: np.array([int(2 * d if len(h) == 3 else d, 16) / 255 for d in digits(h)])
            for name, h in re.findall(r"--([\w-]+): #([0-9a-f]+)", block)
        }
        for block in re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    )
    return {"light": light, "dark": dark, "print": light | paper}


def digits(text: str) -> list[str]:
    width = len(text) // 3
    return [text[i : i + width] for i in range(0, len(text), width)]


@pytest.fixture(params=["light", "dark", "print"])
def colours(request: pytest.FixtureRequest) -> dict[str, Colour]:
    return schemes()[request.param]


@pytest.mark.parametrize("deficiency", DEFICIENCIES)
def test_class_colours_differ_for_every_eye(colours: dict[str, Colour], deficiency: str) -> None:
    seen = [DEFICIENCIES[deficiency] @ linear(colours[f"c{i}"]) for i in range(MAX_COLOURS)]
    for (i, first), (j, second) in combinations(enumerate(seen), 2):
        distance = np.linalg.norm(oklab(first) - oklab(second))
        assert distance > 0.115, f"c{i} and c{j}"  # Okabe and Ito's palette: 0.08 and more


@pytest.mark.parametrize("deficiency", DEFICIENCIES)
def test_warm_and_cool_differ_for_every_eye(colours: dict[str, Colour], deficiency: str) -> None:
    warm, cool = (DEFICIENCIES[deficiency] @ linear(colours[name]) for name in ("warm", "bar"))
    assert np.linalg.norm(oklab(warm) - oklab(cool)) > 0.12


def test_marks_stand_out_from_the_page(colours: dict[str, Colour]) -> None:
    marks = ["bar", "warm", "faint", *(f"c{i}" for i in range(MAX_COLOURS))]
    assert min(contrast(colours[name], colours["page"]) for name in marks) >= 3


@pytest.mark.parametrize("text", ["ink", "faint", "bar"])
@pytest.mark.parametrize("background", ["page", "panel"])
def test_text_can_be_read(colours: dict[str, Colour], text: str, background: str) -> None:
    assert contrast(colours[text], colours[background]) >= 4.5


@pytest.mark.parametrize("colour", ["bar", "warm"])
def test_text_in_cells_of_any_strength_can_be_read(colour: str) -> None:
    opacities = [float(value) for value in re.findall(r"--full: ([\d.]+)", STYLE.read_text())]
    assert len(opacities) == 2
    for (name, colours), full in zip(schemes().items(), (*opacities, opacities[0]), strict=True):
        for strength in np.linspace(0, full, 20):
            cell = strength * colours[colour] + (1 - strength) * colours["page"]
            assert contrast(colours["ink"], cell) >= 4.5, (name, strength)
