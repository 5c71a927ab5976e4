"""What is compared: every method of `ensemble.options`, and `hgprompt` without one of its parts."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

from benchmarks.suite.errors import SuiteError
from ensemble.options import SOURCE_FREE_METHODS, FitOptions, Method, why_refused

VALIDATION_FRACTION = 0.2
"""800 training and 200 validation images of 1,000."""

METHODS: tuple[Method, ...] = get_args(Method)

OURS = "hgprompt"
"""The variant that all others are compared with."""

SIMPLE = ("none", "single", "mean")
"""The candidates that anybody has without learning weights."""

ABLATIONS: dict[str, dict[str, Any]] = {
    "hgprompt-no-penalty": {"penalty_weight": 0.0},
    "hgprompt-unaligned": {"align": False},
    "hgprompt-untuned": {"tuning_epochs": 0},
    "hgprompt-feature-sum": {"composition": "feature_sum"},
    "hgprompt-exact": {"composition": "exact"},
}
"""Options in which each ablation differs from `hgprompt`."""


@dataclass(frozen=True)
class Variant:
    """A method with its options, under the name that the results carry."""

    name: str
    method: Method
    options: FitOptions

    @property
    def uses_sources(self) -> bool:
        """Whether its result depends on the source prompts."""
        return self.method not in SOURCE_FREE_METHODS


def make_variants(tuning_epochs: int) -> dict[str, Variant]:
    """Return every method and every ablation that differs from `hgprompt`, by name.

    Args:
        tuning_epochs: Budget of every variant that tunes.
    """
    base = FitOptions(tuning_epochs=tuning_epochs, validation_fraction=VALIDATION_FRACTION)
    variants = {method: Variant(method, method, base) for method in METHODS}
    ablations = {
        name: Variant(name, "hgprompt", replace(base, **changes))
        for name, changes in ABLATIONS.items()
    }
    return variants | {n: v for n, v in ablations.items() if v.options != base}


def choose_variants(names: Sequence[str] | None, tuning_epochs: int) -> list[Variant]:
    """Return the named variants, or all methods that these options allow.

    Raises:
        SuiteError: A name is unknown, or its method makes no sense with these options.
    """
    known = make_variants(tuning_epochs)
    if names is None:
        return [known[m] for m in METHODS if why_refused(m, known[m].options) is None]
    for name in names:
        if name not in known:
            raise SuiteError(f"method {name!r} is not one of {', '.join(known)}")
        reason = why_refused(known[name].method, known[name].options)
        if reason is not None:
            raise SuiteError(reason)
    return [known[name] for name in dict.fromkeys(names)]
