"""Ensemble weights: maximise the adjusted H-score of the weighted features over the simplex.

    maximise  H~(sum_j alpha_j f_j) - lambda R(alpha)   over alpha >= 0, sum alpha = 1

Neither convex nor concave (H is a convex quadratic form only while S is frozen, and then its
maximum is a vertex), so several starts: uniform, the best vertices, one random point; and once from
uniform with lambda annealed from 0, which alone gets stuck where the score has dropped a source.
The uniform weights and every vertex are scored too and never lost against.

The score is small where the shrinkage is (it is of the order of rho where N - 1 <= D) or near 1.
The ascent works on the objective in units of the largest score at the uniform weights and the
vertices, so that what it finds does not depend on how large that is.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

from ensemble.errors import ShapeError
from ensemble.gradient_variance import GradientVariancePenalty
from ensemble.hscore import adjusted_h_score_and_gradient

_ANNEALING = (0.0, 1.0)
_NUM_VERTEX_STARTS = 2
# Every ascent starts a little inside, where the gradient sees all sources: at alpha_i = 0 that of
# the penalty, which is made of squares, vanishes, and a source once dropped would never come back.
_INWARD = 0.2
_MAX_ITERATIONS = 30
_TOLERANCE = 1e-6


@dataclass(frozen=True)
class WeightSolution:
    """The best weights found, and the parts of the objective there.

    Attributes:
        weights: alpha (M,), float64, on the simplex.
        objective: h_score_adjusted - penalty_weight * gradient_penalty.
        h_score_adjusted: H~ of the weighted feature sum.
        gradient_penalty: R(alpha); 0 without a penalty.
        curve: Best objective after each evaluation, at the final penalty weight.
    """

    weights: Tensor
    objective: float
    h_score_adjusted: float
    gradient_penalty: float
    curve: tuple[float, ...]


def solve_weights(
    features: Tensor,
    labels: Tensor,
    *,
    shrinkage: float,
    penalty: GradientVariancePenalty | None = None,
    penalty_weight: float = 0.0,
    seed: int = 0,
    on_evaluation: Callable[[int, float], None] = lambda _n, _objective: None,
) -> WeightSolution:
    """Find weights on the simplex.

    Args:
        features: f_j for each source, (M, N, D).
        labels: (N,), integers.
        shrinkage: rho of the adjusted H-score.
        penalty: R, or None.
        penalty_weight: Final lambda >= 0.
        seed: Of the random start.
        on_evaluation: Called after each evaluation with their number and the best objective.

    Raises:
        ShapeError: `features` is not (M, N, D) with M >= 1.
        EnsembleError: Whatever the score raises for these features.
    """
    if features.ndim != 3 or len(features) == 0:  # noqa: PLR2004
        raise ShapeError(f"features {tuple(features.shape)}: expected (M, N, D) with M >= 1")
    problem = _Problem(features.double(), labels, shrinkage, penalty, penalty_weight, on_evaluation)
    M = len(features)
    uniform = np.full(M, 1 / M)
    problem.evaluate(uniform)
    if M > 1:
        vertices = np.eye(M)
        scores = [problem.evaluate(vertex) for vertex in vertices]
        problem.unit = problem.largest_score or 1.0
        best = np.argsort(scores)[::-1][:_NUM_VERTEX_STARTS]
        random = np.random.default_rng(seed).dirichlet(np.ones(M))
        for start in (uniform, *vertices[best], random):
            _ascend(problem, start, (1.0,))
        if problem.penalty_weight > 0:
            _ascend(problem, uniform, _ANNEALING)
    return problem.solution()


def _ascend(problem: "_Problem", start: NDArray[np.float64], stages: tuple[float, ...]) -> None:
    """Sequential quadratic programming from one start, at each stage's share of lambda.

    Its tolerance and its first step are absolute numbers: `problem.unit` gives them a meaning.
    """
    point = start
    for stage in stages:
        found = minimize(
            partial(problem.negative, stage=stage),
            (1 - _INWARD) * point + _INWARD / len(point),
            jac=True,
            method="SLSQP",
            bounds=[(0.0, 1.0)] * len(point),
            constraints={"type": "eq", "fun": _excess, "jac": np.ones_like},
            options={"maxiter": _MAX_ITERATIONS, "ftol": _TOLERANCE},
        )
        point = project(found.x)
    problem.evaluate(point)


def _excess(point: NDArray[np.float64]) -> float:
    return float(point.sum()) - 1


def project(point: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return an almost feasible point on the simplex: clipped at 0, summing to 1."""
    clipped = np.clip(point, 0.0, None)
    return clipped / clipped.sum()


class _Problem:
    """The objective, its gradient, and the best feasible point seen at the final lambda.

    Attributes:
        largest_score: Largest |H~| so far.
        unit: What `negative` divides the objective by, > 0.
    """

    def __init__(
        self,
        features: Tensor,
        labels: Tensor,
        shrinkage: float,
        penalty: GradientVariancePenalty | None,
        penalty_weight: float,
        on_evaluation: Callable[[int, float], None],
    ) -> None:
        self.shape, self.flat = features.shape[1:], features.flatten(1)  # (N, D), (M, N D)
        self.labels, self.shrinkage = labels, shrinkage
        self.penalty, self.penalty_weight = penalty, penalty_weight if penalty else 0.0
        self.on_evaluation = on_evaluation
        self.largest_score, self.unit = 0.0, 1.0
        self.best: WeightSolution | None = None
        self.curve: list[float] = []

    def negative(self, x: NDArray[np.float64], stage: float) -> tuple[float, NDArray[np.float64]]:
        """Minus the objective at lambda * stage, and its gradient (M,), in units of `unit`."""
        alpha = torch.from_numpy(project(x))
        score, by_feature = self._score(alpha)
        gradient = self.flat @ by_feature.reshape(-1)
        penalty, penalty_gradient = self._penalty(alpha)
        weight = self.penalty_weight * stage
        self._keep(alpha, score, penalty)
        objective = (score - weight * penalty) / self.unit
        return -objective, -(gradient - weight * penalty_gradient).numpy() / self.unit

    def evaluate(self, x: NDArray[np.float64]) -> float:
        """The objective at the final lambda; the point is kept if it is the best yet."""
        alpha = torch.from_numpy(x)
        score, _ = self._score(alpha)
        penalty, _ = self._penalty(alpha)
        self._keep(alpha, score, penalty)
        return score - self.penalty_weight * penalty

    def solution(self) -> WeightSolution:
        """The best point, with the curve so far."""
        assert self.best is not None  # noqa: S101  # uniform was evaluated
        return replace(self.best, curve=tuple(self.curve))

    def _score(self, alpha: Tensor) -> tuple[float, Tensor]:
        weighted = (alpha @ self.flat).view(self.shape)
        return adjusted_h_score_and_gradient(weighted, self.labels, shrinkage=self.shrinkage)

    def _penalty(self, alpha: Tensor) -> tuple[float, Tensor]:
        if self.penalty is None:
            return 0.0, torch.zeros_like(alpha)
        leaf = alpha.clone().requires_grad_()
        value = self.penalty(leaf)
        (gradient,) = torch.autograd.grad(value, leaf)
        return float(value.detach()), gradient

    def _keep(self, alpha: Tensor, score: float, penalty: float) -> None:
        self.largest_score = max(self.largest_score, abs(score))
        objective = score - self.penalty_weight * penalty
        if self.best is None or objective > self.best.objective:
            self.best = WeightSolution(alpha.clone(), objective, score, penalty, ())
        self.curve.append(self.best.objective)
        self.on_evaluation(len(self.curve), self.best.objective)
