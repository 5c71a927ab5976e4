"""What a fit returns."""

from dataclasses import dataclass

from torch import Tensor

from ensemble.candidates import Candidate
from ensemble.class_head import ClassHead
from ensemble.leaderboard import Standing, Validation
from ensemble.methods.findings import Diagnostics
from ensemble.screening import Screening


@dataclass(frozen=True)
class FitResult:
    """What a fit found. All weights and indices of sources are of the kept ones.

    Attributes:
        weights: alpha (M,) of the requested method, on the simplex; (0,) if it combines none.
        candidates: All that were tried, best first.
        served: The one of them that is to be served.
        validation: The chosen candidate on the validation part.
        kept: Indices of the given sources that the fit used.
        screening: How they were picked; None if all were.
        diagnostics: What the method learned about the sources.
        timings_s: Seconds spent in each stage.
    """

    weights: Tensor
    candidates: tuple[Candidate, ...]
    served: Candidate
    validation: Validation
    kept: tuple[int, ...]
    screening: Screening | None
    diagnostics: Diagnostics
    timings_s: dict[str, float]

    @property
    def chosen(self) -> Standing:
        """Standing of the candidate to serve."""
        return self.served.standing

    @property
    def chosen_weights(self) -> Tensor:
        """Its weights, (M,) or (0,)."""
        return self.served.weights

    @property
    def prompt(self) -> Tensor:
        """Its prompt (L, P, D) float32; P = 0 if it has none."""
        return self.served.prompt

    @property
    def head(self) -> ClassHead:
        """Its class head."""
        return self.served.head

    @property
    def features(self) -> Tensor:
        """Features (N, D) of all images under its prompt."""
        return self.served.features

    @property
    def leaderboard(self) -> tuple[Standing, ...]:
        """All candidates' standings, best first."""
        return tuple(candidate.standing for candidate in self.candidates)
