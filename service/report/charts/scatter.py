"""Images on a plane, marked by class: by colour and by shape."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from service.report.charts.axis import Axis, Point

SIDE, MARGIN = 400.0, 14.0
MAX_COLOURS = 8
MAX_MARKED = 16
"""So many classes have a marker of their own: each colour goes with two of the shapes."""
MARKED_OF_MANY = 12

SHAPES = (
    "m-3.6 0a3.6 3.6 0 1 0 7.2 0a3.6 3.6 0 1 0-7.2 0z",  # circle
    "m-3.3-3.3h6.6v6.6h-6.6z",  # square
    "m0-4.6l4.4 7.6h-8.8z",  # triangle
    "m0-4.8l4.2 4.8-4.2 4.8-4.2-4.8z",  # diamond
    "m-1.3-4.4h2.6v3.1h3.1v2.6h-3.1v3.1h-2.6v-3.1h-3.1v-2.6h3.1z",  # plus
    "m0 4.6l4.4-7.6h-8.8z",  # triangle, point down
    "m0-2l2.3-2.3 2 2-2.3 2.3 2.3 2.3-2 2-2.3-2.3-2.3 2.3-2-2 2.3-2.3-2.3-2.3 2-2z",  # cross
    "m-4-4h8l-8 8h8z",  # hourglass
)
PLAIN = "Plain features"
LEARNED = "Features of the learned ensemble, under its composite prompt"
SERVED = "Features of what was served, under its prompt"
OTHER = "m-1.8 0a1.8 1.8 0 1 0 3.6 0a1.8 1.8 0 1 0-3.6 0z"  # a small circle


class Embedding(Protocol):
    """Images on a plane, without and with a composite prompt: the served one, or a method's."""

    method: str
    composite_of: str | None
    labels: tuple[int, ...]
    plain: tuple[Point, ...] | None
    composite: tuple[Point, ...] | None


@dataclass(frozen=True)
class Marker:
    """How the images of a class are drawn; `colour` is None for classes without a marker."""

    label: str
    colour: int | None
    shape: str


@dataclass(frozen=True)
class Group:
    """All images of one class as one path."""

    marker: Marker
    path: str


@dataclass(frozen=True)
class Panel:
    """One plane."""

    title: str
    description: str
    groups: tuple[Group, ...]


@dataclass(frozen=True)
class Scatter:
    """Planes of the same images; `num_others` classes share the small dots."""

    method: str
    num_images: int
    panels: tuple[Panel, ...]
    legend: tuple[Marker, ...]
    num_others: int


def scatter(embedding: Embedding | None, classes: Sequence[str] | None) -> Scatter | None:
    """Draw the planes that have a point for every label; None if none has."""
    if embedding is None or not embedding.labels:
        return None
    composite_title = SERVED if embedding.composite_of is None else LEARNED
    named = {PLAIN: embedding.plain, composite_title: embedding.composite}
    planes = [(t, p) for t, p in named.items() if p and len(p) == len(embedding.labels)]
    if not planes:
        return None
    markers = _markers(embedding.labels, classes or ())
    marked = [marker for marker in markers.values() if marker.colour is not None]
    return Scatter(
        method=embedding.method,
        num_images=len(embedding.labels),
        panels=tuple(_panel(title, points, embedding.labels, markers) for title, points in planes),
        legend=tuple(marked),
        num_others=len(markers) - len(marked),
    )


def _markers(labels: Sequence[int], classes: Sequence[str]) -> dict[int, Marker]:
    """A marker for each class that is present; the frequent ones if there are too many."""
    count = Counter(labels)
    present = sorted(count)
    frequent = sorted(present, key=lambda label: -count[label])
    shown = sorted(frequent[: MARKED_OF_MANY if len(present) > MAX_MARKED else MAX_MARKED])
    return {
        label: _marker(
            classes[label] if label < len(classes) else f"class {label}",
            shown.index(label) if label in shown else None,
        )
        for label in present
    }


def _marker(label: str, place: int | None) -> Marker:
    """The second round of colours goes through the shapes from another start."""
    if place is None:
        return Marker(label, None, OTHER)
    second_round, colour = divmod(place, MAX_COLOURS)
    return Marker(label, colour, SHAPES[(colour + 3 * second_round) % len(SHAPES)])


def _panel(
    title: str, points: Sequence[Point], labels: Sequence[int], markers: dict[int, Marker]
) -> Panel:
    xs, ys = zip(*points, strict=True)
    inside = SIDE - 2 * MARGIN
    span = max(max(xs) - min(xs), max(ys) - min(ys), 1e-9)
    x_axis = Axis.spanning(xs, least=span, length=inside)
    y_axis = Axis.spanning(ys, least=span, length=inside)
    paths = dict.fromkeys(sorted(markers, key=lambda label: markers[label].colour is not None), "")
    for (x, y), label in zip(points, labels, strict=True):
        at = f"M{MARGIN + x_axis.at(x):.1f} {SIDE - MARGIN - y_axis.at(y):.1f}"
        paths[label] += at + markers[label].shape
    return Panel(
        title=title,
        description=f"{len(points)} images of {len(markers)} classes on a plane.",
        groups=tuple(Group(markers[label], path) for label, path in paths.items()),
    )
