"""SVG files whose bytes depend on what is drawn alone."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Without a date and with a fixed salt, equal results give equal files; text stays text.
STYLE: dict[Any, Any] = {"svg.hashsalt": "hgprompt", "svg.fonttype": "none", "font.size": 9}


def figure_of(width_in: float, height_in: float) -> tuple[Figure, Axes]:
    """Return a figure with one pair of axes; sizes in inches."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width_in, height_in), layout="constrained")
        return figure, figure.add_subplot()


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as SVG."""
    with mpl.rc_context(STYLE):
        figure.savefig(path, metadata={"Date": None})
