"""What a fit finds."""

from dataclasses import dataclass

from torch import Tensor

from ensemble.class_head import ClassHead
from ensemble.leaderboard import Standing, Validation


@dataclass(frozen=True)
class SourceScore:
    """A source's scores on the training part: plain H-score and adjusted H-score."""

    h_score: float
    h_score_adjusted: float


@dataclass(frozen=True)
class FitResult:
    """What a fit found.

    Attributes:
        weights: alpha (M,) of the requested method, on the simplex; M = 0 for "none".
        chosen: The candidate that is to be served.
        chosen_weights: Weights of that candidate, (M,) or (0,).
        prompt: Its prompt (L, P, D) float32; P = 0 if it has none.
        head: Its class head.
        leaderboard: All candidates, best first.
        validation: The chosen candidate on the validation part.
        objective: `h_score`, `h_score_adjusted`, `gradient_penalty`, `total` at the learned
            weights, on the training part's weighted feature sum; None for other methods.
        sources: A score for each source; empty if sources were not looked at.
        gradient_cosine: (M, M), or None.
        composition_gap: Gamma of the learned composite; None for other methods, and where the
            sources of any weight do not differ.
        objective_curve: Best objective after each evaluation of the weights.
        advice: A sentence if the learned ensemble is not the best candidate, else None.
        timings_s: Seconds spent in each stage.
    """

    weights: Tensor
    chosen: Standing
    chosen_weights: Tensor
    prompt: Tensor
    head: ClassHead
    leaderboard: tuple[Standing, ...]
    validation: Validation
    objective: dict[str, float] | None
    sources: tuple[SourceScore, ...]
    gradient_cosine: Tensor | None
    composition_gap: float | None
    objective_curve: tuple[float, ...]
    advice: str | None
    timings_s: dict[str, float]
