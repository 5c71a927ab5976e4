"""The result document of a fit, as the report reads it.

Results last for ever while workers change, so every part is optional, and a part in a form that is
not understood is left out of the page instead of failing it.
"""

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError, WrapValidator


def _else_none(value: Any, validate: Callable[[Any], Any]) -> Any:
    try:
        return validate(value)
    except ValidationError:
        return None


_Lenient = WrapValidator(_else_none)

Number = Annotated[float, Field(ge=-1e100, le=1e100)]
"""Far from where differences overflow."""

Interval = tuple[Number, Number]
Point = tuple[Number, Number]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class Objective(_Part):
    """The parts of the fitted objective, as they were at the end."""

    h_score: Number | None = None
    h_score_adjusted: Number | None = None
    composite_h_score_adjusted: Number | None = None
    gradient_penalty: Number | None = None
    total: Number | None = None


class Source(_Part):
    """A source prompt by its reference."""

    name: str
    version: int | None = None
    digest: str | None = None

    @property
    def label(self) -> str:
        """What it is called on the page."""
        return self.name if self.version is None else f"{self.name}@{self.version}"


class SourceScores(Source):
    """What one source is worth alone."""

    h_score: Number | None = None
    h_score_adjusted: Number | None = None
    logme: Number | None = None
    similarity: Number | None = None
    validation_accuracy: Number | None = None


class DroppedSource(Source):
    """A source that the fit did not use, and why."""

    score: Number | None = None
    num_images: int | None = None
    reason: str | None = None


class Look(_Part):
    """One round of the screening: on how many images how many sources were scored."""

    num_images: int
    num_sources: int


class Screening(_Part):
    """A first look at all sources, on few images; perhaps a second at the best, on more."""

    num_images: int | None = None
    looks: Annotated[tuple[Look, ...] | None, _Lenient] = None
    dropped: tuple[DroppedSource, ...] = ()


class Candidate(_Part):
    """One way to make the prompt; `source` is the one that it starts from, if one."""

    method: str
    source: str | None = None
    tuned: bool = False

    @property
    def label(self) -> str:
        """What it is called on the page."""
        return " · ".join(filter(None, (self.method, self.source, "tuned" if self.tuned else "")))


class Ranked(Candidate):
    """A candidate with its held-out accuracy."""

    accuracy: Number
    ci95: Interval | None = None


class Ablation(_Part):
    """The learned ensemble with one part changed; the difference is paired by image."""

    name: str
    accuracy: Number | None = None
    ci95: Interval | None = None
    difference: Number | None = None
    difference_ci95: Interval | None = None
    weights: dict[str, Number] | None = None


class ReliabilityBin(_Part):
    """Images of about the same confidence; without means where there are none."""

    low: Number
    high: Number
    count: NonNegativeInt
    confidence: Number | None = None
    accuracy: Number | None = None


class Validation(_Part):
    """Quality of what was chosen, on held-out images."""

    accuracy: Number | None = None
    ece: Number | None = None
    temperature: Number | None = None
    num_images: int | None = None
    reliability: Annotated[tuple[ReliabilityBin, ...] | None, _Lenient] = None


class CompositionGap(_Part):
    """How far the composite prompt's features are from the mixture of the sources' features."""

    aligned: Number | None = None
    unaligned: Number | None = None
    num_images: int | None = None


class Embedding(_Part):
    """Images on a plane, by their features without and with a composite prompt.

    `composite_of` is the method that made it; without one it is the prompt that was served.
    """

    method: str = "t-SNE"
    composite_of: str | None = None
    labels: tuple[NonNegativeInt, ...]
    plain: tuple[Point, ...] | None = None
    composite: tuple[Point, ...] | None = None


class ReportData(_Part):
    """Everything the report can show."""

    weights: Annotated[dict[str, Number] | None, _Lenient] = None
    objective: Annotated[Objective | None, _Lenient] = None
    sources: Annotated[tuple[SourceScores, ...] | None, _Lenient] = None
    screening: Annotated[Screening | None, _Lenient] = None
    gradient_cosine: Annotated[tuple[tuple[Number | None, ...], ...] | None, _Lenient] = None
    gradient_num_images: Annotated[int | None, _Lenient] = None
    composition_gap: Annotated[CompositionGap | None, _Lenient] = None
    leaderboard: Annotated[tuple[Ranked, ...] | None, _Lenient] = None
    chosen: Annotated[Candidate | None, _Lenient] = None
    ablations: Annotated[tuple[Ablation, ...] | None, _Lenient] = None
    validation: Annotated[Validation | None, _Lenient] = None
    confusion_matrix: Annotated[tuple[tuple[NonNegativeInt, ...], ...] | None, _Lenient] = None
    classes: Annotated[tuple[str, ...] | None, _Lenient] = None
    embedding: Annotated[Embedding | None, _Lenient] = None
    timings_s: Annotated[dict[str, Number] | None, _Lenient] = None
    advice: Annotated[str | None, _Lenient] = None
    objective_curve: Annotated[tuple[Point, ...] | None, _Lenient] = None
    composite_curve: Annotated[tuple[Point, ...] | None, _Lenient] = None
    lineage: Annotated[dict[str, Any] | None, _Lenient] = None

    @property
    def chosen_label(self) -> str | None:
        """What the chosen candidate is called on the page."""
        return None if self.chosen is None else self.chosen.label
