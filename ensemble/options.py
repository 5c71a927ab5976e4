"""What a caller may choose about a fit. Free of torch, so that the HTTP layer can validate it."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Interval

Method = Literal["hgprompt", "none", "single", "mean"]
"""How the composite prompt is made; the definitions are in `ensemble.fitting`."""


@dataclass(frozen=True)
class FitOptions:
    """Options of one fit, all dimensionless; the bounds are checked where the options enter.

    Attributes:
        tuning_epochs: Epochs of joint tuning of composite prompt and class head; 0 = head only.
        validation_fraction: Share of the target images held out to choose among candidates.
        shrinkage: rho of the adjusted H-score, the weight of the isotropic part of S.
        penalty_weight: Final lambda of the gradient-variance penalty; it is annealed from 0.
        align: Permute each source's tokens onto the reference before averaging.
        prompt_learning_rate: Peak learning rate of the prompt while tuning.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    tuning_epochs: Annotated[int, Interval(ge=0, le=200)] = 0
    validation_fraction: Annotated[float, Interval(ge=0.1, le=0.5)] = 0.3
    shrinkage: Annotated[float, Interval(gt=0.0, lt=1.0)] = 0.05
    penalty_weight: Annotated[float, Interval(ge=0.0, le=100.0)] = 0.003
    align: bool = True
    prompt_learning_rate: Annotated[float, Interval(gt=0.0, le=10.0)] = 0.005
