"""Weights by the score of the composite prompt itself, with an exact gradient.

    maximise  J(alpha) = H~(f(x; P(alpha))) - lambda R(alpha),   P(alpha) = sum_j alpha_j P_j

over the simplex. The features of a weighted prompt are not the weighted sum of the sources'
features, on which `ensemble.simplex` works, so every step here needs the backbone, and few are
taken from the weights found there. One gradient costs the same for any number of sources:

    pass 1   all features f (N, D), no graph; the cotangents dJ/df (N, D) in closed form
    pass 2   forward and backward, batch by batch, into P (L, P, D) alone: g_P
    then     dJ/dalpha_j = <g_P, P_j> - lambda dR/dalpha_j, for all j at once

which is the gradient over all images at the memory of one batch. Pass 1 is free from the second
step on: the accepted point's features are those of its trial.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from scipy.optimize import root_scalar
from torch import Tensor

from ensemble.composition import compose
from ensemble.errors import FitStoppedError
from ensemble.features import extract_features
from ensemble.gradient_variance import GradientVariancePenalty
from ensemble.hscore import adjusted_h_score_and_gradient
from ensemble.prompt_tuning import LabelledPixels
from ensemble.prompted_vit import PromptedViT

FIRST_RADIUS = 0.25
"""Share of all weight that the first step tries to move from some sources to others."""
_MAX_TRIALS = 4
_SUFFICIENT_INCREASE = 1e-4
_LEAST_CUT, _FIRST_CUT, _MOST_GROWTH = 0.1, 0.5, 2.0
_RELATIVE_TOLERANCE = 1e-4
_END_OF_PATH = math.log(1e6)


@dataclass(frozen=True)
class CompositePoint:
    """J and its parts at some weights (M,), with the composite's features (N, D), float32."""

    weights: Tensor
    features: Tensor
    h_score_adjusted: float
    gradient_penalty: float
    objective: float


@dataclass(frozen=True)
class CompositeSolution(CompositePoint):
    """The best point that was reached, and the way there.

    Attributes:
        num_accepted: Steps that raised J.
        num_gradients: Gradients taken, N forward and backward passes each.
        curve: Best J after each evaluation, the start being the first.
    """

    num_accepted: int
    num_gradients: int
    curve: tuple[float, ...]


@dataclass(frozen=True)
class CompositeObjective:
    """J for one target task, and its gradient.

    Attributes:
        vit: The frozen backbone.
        prompts: The sources P_j, (M, L, P, D), aligned or not.
        images: The N training images and their labels.
        shrinkage: rho of the adjusted H-score.
        penalty: R, or None.
        penalty_weight: lambda >= 0.
        batch_size: Images a pass through the backbone.
        should_stop: Asked before every batch.
    """

    vit: PromptedViT
    prompts: Tensor
    images: LabelledPixels
    shrinkage: float
    penalty: GradientVariancePenalty | None = None
    penalty_weight: float = 0.0
    batch_size: int = 32
    should_stop: Callable[[], bool] = lambda: False

    def evaluate(self, weights: Tensor, features: Tensor | None = None) -> CompositePoint:
        """Return J at `weights` (M,): N forward passes, or none where `features` are given.

        Raises:
            ShapeError: Not one weight a source, or a prompt that does not fit the backbone.
            FitStoppedError: `should_stop` returned true.
            EnsembleError: Whatever the score raises for these features.
        """
        if features is None:
            (features,) = extract_features(
                self.vit,
                self.images.pixels,
                [compose(self.prompts, weights)],
                batch_size=self.batch_size,
                should_stop=self.should_stop,
            )
        score, _ = self._score(features)
        penalty, _ = self._penalty(weights)
        objective = score - self.penalty_weight * penalty
        return CompositePoint(weights.double(), features, score, penalty, objective)

    def gradient(self, point: CompositePoint) -> Tensor:
        """Return dJ/dalpha (M,), float64, over all images: N forward and backward passes.

        Raises:
            FitStoppedError: `should_stop` returned true.
        """
        _, cotangents = self._score(point.features)  # (N, D)
        composite = compose(self.prompts, point.weights).to(self.vit.device).requires_grad_()
        by_prompt = torch.zeros(composite.shape, dtype=torch.float64)  # g_P
        for rows in torch.arange(len(self.images)).split(self.batch_size):
            if self.should_stop():
                raise FitStoppedError(
                    f"stopped after the gradients of {int(rows[0])} of {len(self.images)} images"
                )
            features = self.vit(self.images.pixels[rows].to(self.vit.device), composite)
            (part,) = torch.autograd.grad(features, composite, cotangents[rows].to(features))
            by_prompt += part.double().cpu()
        by_weight = torch.einsum("lpd,mlpd->m", by_prompt, self.prompts.double())
        return by_weight - self.penalty_weight * self._penalty(point.weights)[1]

    def _score(self, features: Tensor) -> tuple[float, Tensor]:
        return adjusted_h_score_and_gradient(features, self.images.labels, shrinkage=self.shrinkage)

    def _penalty(self, weights: Tensor) -> tuple[float, Tensor]:
        leaf = weights.double().clone().requires_grad_()
        if self.penalty is None:
            return 0.0, torch.zeros_like(leaf)
        value = self.penalty(leaf)
        (gradient,) = torch.autograd.grad(value, leaf)
        return float(value.detach()), gradient


def refine_weights(
    objective: CompositeObjective,
    start: CompositePoint,
    *,
    steps: int,
    on_step: Callable[[int, int, float], None] = lambda _step, _steps, _objective: None,
) -> CompositeSolution:
    """Raise J from `start` by at most `steps` steps; J at the result is never lower.

    Projected gradient ascent: a trial is the point of the projected path alpha(s) = Proj(alpha +
    s dJ/dalpha) at which a given share of the weight has moved, the radius. J, computed anew from
    all images, has to rise, or the radius is cut back; both for the next trial and the next step
    it follows the parabola through the slope and the two values of J. Ends early where no trial
    raises J, or where the slope promises less than 1e-4 of J. Nothing depends on the unit of J or
    of the prompts. The paper does not say how it steps.

    Args:
        objective: J.
        start: J at the weights to start from, by `CompositeObjective.evaluate`.
        steps: At most; each costs one gradient (2.6 N forward passes' time on a CPU) and 1 to 4
            evaluations (N each). 0 returns the start.
        on_step: Called after each step with its number, `steps` and the best J.

    Raises:
        FitStoppedError, EnsembleError: As `CompositeObjective.evaluate`.
    """
    best, radius = start, FIRST_RADIUS
    curve = [start.objective]
    accepted = gradients = 0
    for step in range(1, steps + 1 if len(start.weights) > 1 else 1):
        gradient = objective.gradient(best)
        gradients += 1
        found, radius = _climb(objective, best, gradient, radius, curve)
        on_step(step, steps, curve[-1])
        if found is None:
            break
        best = found
        accepted += 1
    return CompositeSolution(
        weights=best.weights,
        features=best.features,
        h_score_adjusted=best.h_score_adjusted,
        gradient_penalty=best.gradient_penalty,
        objective=best.objective,
        num_accepted=accepted,
        num_gradients=gradients,
        curve=tuple(curve),
    )


def _climb(
    objective: CompositeObjective,
    start: CompositePoint,
    gradient: Tensor,
    radius: float,
    curve: list[float],
) -> tuple[CompositePoint | None, float]:
    """The first trial that raises J, if any, and the radius of the next."""
    for _ in range(_MAX_TRIALS):
        weights = move_along(start.weights, gradient, radius)
        promised = float(gradient @ (weights - start.weights))
        if promised <= _RELATIVE_TOLERANCE * abs(start.objective):
            break
        trial = objective.evaluate(weights)
        gain = trial.objective - start.objective
        # Where the parabola through both values and the slope has its maximum, in radii.
        best_cut = 0.5 * promised / (promised - gain) if gain < promised else _MOST_GROWTH
        if gain > _SUFFICIENT_INCREASE * promised:
            curve.append(trial.objective)
            return trial, min(1.0, radius * min(max(best_cut, _FIRST_CUT), _MOST_GROWTH))
        curve.append(start.objective)
        radius *= min(max(best_cut, _LEAST_CUT), _FIRST_CUT)
    return None, radius


def move_along(weights: Tensor, gradient: Tensor, radius: float) -> Tensor:
    """Return the point on the projected path that has moved `radius` of the weight, or its end.

    Args:
        weights: (M,), on the simplex.
        gradient: (M,), in any unit.
        radius: Share of the weight to move from some sources to others, in (0, 1].
    """
    tangent = gradient - gradient.mean()
    steepness = _share_moved(tangent)
    if steepness == 0:
        return weights
    unclipped = tangent * (radius / steepness)  # moves just `radius` where no weight becomes 0

    def point(log_length: float) -> Tensor:
        return nearest_on_simplex(weights + math.exp(log_length) * unclipped)

    def excess(log_length: float) -> float:
        return _share_moved(point(log_length) - weights) - radius

    if excess(_END_OF_PATH) <= 0:
        return point(_END_OF_PATH)
    return point(root_scalar(excess, bracket=(-1.0, _END_OF_PATH)).root)


def _share_moved(change: Tensor) -> float:
    """How much weight a change (M,) that sums to 0 takes from some sources for others."""
    return float(change.abs().sum()) / 2


def nearest_on_simplex(point: Tensor) -> Tensor:
    """Return the Euclidean projection of `point` (M,) onto the simplex, by sorting.

    Held, Wolfe & Crowder 1974, "Validation of subgradient optimization", Mathematical Programming.
    """
    descending = point.sort(descending=True).values
    ranks = torch.arange(1, len(point) + 1, dtype=point.dtype)
    shifts = (descending.cumsum(0) - 1) / ranks
    shift = shifts[int((descending > shifts).sum()) - 1]
    clipped = (point - shift).clamp_min(0)
    return clipped / clipped.sum()
