"""Learn weights on the training part of a fit: from features, then on the composite itself."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ensemble.composite_objective import CompositeObjective, CompositeSolution, refine_weights
from ensemble.fit_session import BATCH_SIZE, FitSession
from ensemble.gradient_variance import GradientVariancePenalty
from ensemble.simplex import WeightSolution, solve_weights

REFINEMENT_STEPS = 2
"""Steps on the composite's own objective with `composition="exact"`."""


def learn_weights(
    fit: FitSession,
    features: Sequence[Tensor],
    penalty: GradientVariancePenalty | None,
    *,
    stage: str = "weights",
    announce: bool = True,
) -> WeightSolution:
    """Solve for alpha from each source's features (N, D); `announce` reports it as the fit's."""
    fit.checkpoint()
    fit.progress(stage, 0, 1)
    with fit.timed(stage):
        solution = solve_weights(
            torch.stack([f[fit.train_rows] for f in features]),
            fit.labels[fit.train_rows],
            shrinkage=fit.options.shrinkage,
            penalty=penalty,
            penalty_weight=fit.options.penalty_weight if penalty else 0.0,
            seed=fit.seed,
            on_evaluation=lambda _n, _objective: fit.checkpoint(),
        )
    _finish(fit, stage, 1, solution if announce else None)
    return solution


def refine_on_composite(
    fit: FitSession,
    features: Sequence[Tensor],
    weights: Tensor,
    penalty: GradientVariancePenalty | None,
    *,
    stage: str = "refinement",
    announce: bool = True,
) -> CompositeSolution:
    """Go on from weights (M,), or from a better single source, on the composite's own objective.

    The sources' own features (N, D) are known, so that they are starts costs nothing.
    """
    objective = CompositeObjective(
        vit=fit.vit,
        prompts=fit.sources.aligned,
        images=fit.train,
        shrinkage=fit.options.shrinkage,
        penalty=penalty,
        penalty_weight=fit.options.penalty_weight if penalty else 0.0,
        batch_size=BATCH_SIZE,
        should_stop=fit.should_stop,
    )
    fit.progress(stage, 0, REFINEMENT_STEPS)
    with fit.timed(stage):
        starts = [objective.evaluate(weights)]
        starts += [
            objective.evaluate(vertex, of_source[fit.train_rows])
            for vertex, of_source in zip(
                torch.eye(len(features), dtype=torch.float64), features, strict=True
            )
        ]
        solution = refine_weights(
            objective,
            max(starts, key=lambda start: start.objective),
            steps=REFINEMENT_STEPS,
            on_step=lambda step, steps, _: fit.progress(stage, step, steps),
        )
    _finish(fit, stage, REFINEMENT_STEPS, solution if announce else None)
    return solution


def _finish(
    fit: FitSession, stage: str, total: int, found: WeightSolution | CompositeSolution | None
) -> None:
    if found is None:
        fit.progress(stage, total, total)
    else:
        fit.progress(stage, total, total, weights=found.weights.tolist(), objective=found.objective)
