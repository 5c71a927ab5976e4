"""The result document of a fit, as the report reads it.

Results last for ever while workers change, so every part is optional, and a part in a form that is
not understood is left out of the page instead of failing it.
"""

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, ValidationError, WrapValidator


def _else_none(value: Any, validate: Callable[[Any], Any]) -> Any:
    try:
        return validate(value)
    except ValidationError:
        return None


_Lenient = WrapValidator(_else_none)


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class Objective(_Part):
    """The parts of the fitted objective, as they were at the end."""

    h_score: float | None = None
    h_score_adjusted: float | None = None
    gradient_penalty: float | None = None
    total: float | None = None


class SourceScores(_Part):
    """What one source is worth alone."""

    name: str
    version: int | None = None
    digest: str | None = None
    h_score: float | None = None
    h_score_adjusted: float | None = None
    logme: float | None = None
    validation_accuracy: float | None = None


class Candidate(_Part):
    """One way to make the prompt; `source` is that of `single`."""

    method: str
    source: str | None = None
    tuned: bool = False

    @property
    def label(self) -> str:
        """What it is called on the page."""
        return " · ".join(filter(None, (self.method, self.source, "tuned" if self.tuned else "")))


class Ranked(Candidate):
    """A candidate with its held-out accuracy."""

    accuracy: float
    ci95: tuple[float, float] | None = None


class Validation(_Part):
    """Quality of what was chosen, on held-out images."""

    accuracy: float | None = None
    ece: float | None = None
    num_images: int | None = None


class CompositionGap(_Part):
    """How far the composite prompt's features are from the mixture of the sources' features."""

    aligned: float | None = None
    unaligned: float | None = None


class ReportData(_Part):
    """Everything the report can show."""

    weights: Annotated[dict[str, float] | None, _Lenient] = None
    objective: Annotated[Objective | None, _Lenient] = None
    sources: Annotated[tuple[SourceScores, ...] | None, _Lenient] = None
    gradient_cosine: Annotated[tuple[tuple[float | None, ...], ...] | None, _Lenient] = None
    composition_gap: Annotated[CompositionGap | float | None, _Lenient] = None
    leaderboard: Annotated[tuple[Ranked, ...] | None, _Lenient] = None
    chosen: Annotated[Candidate | str | None, _Lenient] = None
    validation: Annotated[Validation | None, _Lenient] = None
    confusion_matrix: Annotated[tuple[tuple[int, ...], ...] | None, _Lenient] = None
    classes: Annotated[tuple[str, ...] | None, _Lenient] = None
    timings_s: Annotated[dict[str, float] | None, _Lenient] = None
    advice: Annotated[str | None, _Lenient] = None
    objective_curve: Annotated[tuple[tuple[float, float], ...] | None, _Lenient] = None
    lineage: Annotated[dict[str, Any] | None, _Lenient] = None
