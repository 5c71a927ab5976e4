"""What a method returns."""

from dataclasses import dataclass, field

from torch import Tensor

from ensemble.candidates import Candidate
from ensemble.leaderboard import Standing


@dataclass(frozen=True)
class SourceScore:
    """A source's scores on the training part.

    Attributes:
        h_score: Plain H-score.
        h_score_adjusted: Adjusted H-score H~.
        logme: Log maximum evidence an image, in nats.
    """

    h_score: float
    h_score_adjusted: float
    logme: float


@dataclass(frozen=True)
class CompositionGap:
    """Gamma of the learned composite on some training images, with its tokens aligned and not.

    NaN where the sources of any weight do not differ.
    """

    aligned: float
    unaligned: float
    num_images: int


@dataclass(frozen=True)
class Ablation:
    """The learned ensemble with one part left out or changed, on the held-out images.

    Attributes:
        name: What was done to it.
        standing: How it does.
        difference: Accuracy minus that of the learned ensemble.
        difference_ci95: Paired 95 % interval of the difference.
        weights: alpha (M,).
    """

    name: str
    standing: Standing
    difference: float
    difference_ci95: tuple[float, float]
    weights: Tensor


@dataclass(frozen=True)
class Diagnostics:
    """What a method learned about sources and weights; empty parts were not looked at.

    Attributes:
        objective: `h_score`, `h_score_adjusted`, `gradient_penalty` and `total` at the learned
            weights, on the training part's weighted feature sum, and `composite_h_score_adjusted`
            on the composite's features.
        sources: A score for each source.
        similarities: Similarity of each source prompt to the target's own.
        gradient_cosine: (M, M).
        gradient_num_images: Training images whose gradients it and the penalty were taken from.
        composition_gap: Of the learned composite.
        objective_curve: Best objective after each evaluation of the weights.
        composite_curve: Objective on the composite's features after each evaluation.
        ablations: See `Ablation`.
        advice: A sentence if the learned ensemble is not the best candidate.
        plain_features: (N, D) without a prompt.
        composite_features: (N, D) under the learned composite, untuned, whatever is served.
    """

    objective: dict[str, float] | None = None
    sources: tuple[SourceScore, ...] = ()
    similarities: tuple[float, ...] = ()
    gradient_cosine: Tensor | None = None
    gradient_num_images: int | None = None
    composition_gap: CompositionGap | None = None
    objective_curve: tuple[float, ...] = ()
    composite_curve: tuple[float, ...] = ()
    ablations: tuple[Ablation, ...] = ()
    advice: str | None = None
    plain_features: Tensor | None = None
    composite_features: Tensor | None = None


@dataclass(frozen=True)
class Findings:
    """What a method found.

    Attributes:
        weights: alpha (M,) of the method, on the simplex; (0,) if it combines no sources.
        candidates: All that it tried, best first.
        diagnostics: See `Diagnostics`.
        chosen: The candidate to serve if it is not the first.
    """

    weights: Tensor
    candidates: list[Candidate]
    diagnostics: Diagnostics = field(default_factory=Diagnostics)
    chosen: Candidate | None = None
