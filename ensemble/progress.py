"""How a fit tells its caller how far it is."""

from collections.abc import Sequence
from typing import Protocol


class ProgressCallback(Protocol):
    """Told how far a fit is; stages come in the order of `ensemble.fitting`'s docstring."""

    def __call__(
        self,
        stage: str,
        step: int,
        total: int,
        *,
        weights: Sequence[float] | None = None,
        objective: float | None = None,
    ) -> None:
        """Report `step` of `total` of a stage."""
        ...


def ignore_progress(
    stage: str,
    step: int,
    total: int,
    *,
    weights: Sequence[float] | None = None,
    objective: float | None = None,
) -> None:
    """A `ProgressCallback` that nobody listens to."""
    del stage, step, total, weights, objective
