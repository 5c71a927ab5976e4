"""What a caller may choose about a fit. Free of torch, so that the HTTP layer can validate it."""

from dataclasses import dataclass, fields
from typing import Annotated, ClassVar, Literal

from annotated_types import Interval

Method = Literal[
    "hgprompt", "none", "vpt", "single", "mean", "spot", "panda", "h_ensemble", "logme"
]
"""How the prompt is made; each has its module in `ensemble.methods`."""

Composition = Literal["feature_sum", "exact"]
Precision = Literal["auto", "fp32", "bf16"]

SOURCE_FREE_METHODS: frozenset[Method] = frozenset({"none", "vpt"})
"""Methods that use no source prompt and may be asked for without any."""

LEARNING_METHODS: frozenset[Method] = frozenset({"hgprompt", "h_ensemble"})
"""Methods that learn the weights; those of the others are even, of one source or by a rule."""

TUNING_METHODS: frozenset[Method] = frozenset({"vpt", "panda"})
"""Methods that are nothing without tuning, and so need `tuning_epochs` of at least 1."""


@dataclass(frozen=True)
class FitOptions:
    """Options of one fit, all dimensionless; the bounds are checked where the options enter.

    Attributes:
        tuning_epochs: Epochs of joint tuning of composite prompt and class head; 0 = head only.
        validation_fraction: Share of the target images held out to choose among candidates.
        max_sources: Of more sources than this, the best by a screening on few images are kept.
        shrinkage: rho of the adjusted H-score, the weight of the isotropic part of S. With fewer
            images than features the score is of the order of rho, and below the bound it is noise
            of rounding.
        penalty_weight: Final lambda of the gradient-variance penalty; it is annealed from 0.
        align: Permute each source's tokens onto a reference before averaging.
        composition: "feature_sum" learns the weights on the weighted sum of the sources'
            features; "exact" goes on from there on the features of the composite prompt itself.
        cotangent_refreshes: How often the gradients' variances are estimated, each time at the
            weights found so far; 1 = at the uniform weights only.
        prompt_learning_rate: Peak learning rate of the prompt, and of the head, while tuning.
        precision: Of the backbone's matrix products; "auto" is the worker's own.
        ablations: Also score the learned ensemble with each of its parts left out or changed.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    tuning_epochs: Annotated[int, Interval(ge=0, le=200)] = 0
    validation_fraction: Annotated[float, Interval(ge=0.1, le=0.5)] = 0.3
    max_sources: Annotated[int, Interval(ge=1, le=100)] = 16
    shrinkage: Annotated[float, Interval(ge=1e-6, lt=1.0)] = 0.05
    penalty_weight: Annotated[float, Interval(ge=0.0, le=1000.0)] = 0.1
    align: bool = True
    composition: Composition = "feature_sum"
    cotangent_refreshes: Annotated[int, Interval(ge=1, le=3)] = 1
    prompt_learning_rate: Annotated[float, Interval(gt=0.0, le=10.0)] = 0.005
    precision: Precision = "auto"
    ablations: bool = False


_OF_LEARNED_WEIGHTS = {"penalty_weight", "composition", "cotangent_refreshes", "ablations"}
_OF_SOURCES = {"max_sources", "shrinkage", "align"}
_OF_A_PROMPT = {"tuning_epochs", "prompt_learning_rate"}
_OF_ONE_SOURCE: frozenset[Method] = frozenset({"single", "logme", "panda"})
"""Methods that never average prompts, for which the order of the tokens means nothing."""
_SCORED: frozenset[Method] = frozenset({"hgprompt", "h_ensemble", "logme"})
"""Methods that take or report the adjusted H-score of the sources; the others only screen by it."""
_OF_A_TASK_EMBEDDING: frozenset[Method] = frozenset({"spot", "panda"})
"""Methods that take some steps at `prompt_learning_rate` whatever `tuning_epochs` is."""


def unused_options(method: Method, options: FitOptions, num_sources: int) -> tuple[str, ...]:
    """Name the options that differ from their defaults and mean nothing to the fit, in order.

    They are no error, so that several methods can be asked for with the same options.

    Args:
        method: Of the fit.
        options: All of them.
        num_sources: How many were given; if they are more than `max_sources` they are screened.
    """
    unused = set[str]()
    if method != "hgprompt":
        unused |= _OF_LEARNED_WEIGHTS
    if method in SOURCE_FREE_METHODS:
        unused |= _OF_SOURCES
    if method in _OF_ONE_SOURCE:
        unused.add("align")
    if method not in _SCORED and num_sources <= options.max_sources:
        unused.add("shrinkage")
    if method == "none":
        unused |= _OF_A_PROMPT
    if options.tuning_epochs == 0 and method not in _OF_A_TASK_EMBEDDING:
        unused.add("prompt_learning_rate")
    return tuple(
        field.name
        for field in fields(options)
        if field.name in unused and getattr(options, field.name) != field.default
    )


def why_refused(method: Method, options: FitOptions) -> str | None:
    """Say why these options make no sense for this method, or return None."""
    if method in TUNING_METHODS and options.tuning_epochs == 0:
        return f"method {method!r} tunes a prompt, so tuning_epochs must be 1 or more; it is 0"
    return None
