"""LogME: how well a Bayesian linear model of the features explains the labels.

You, Liu, Wang & Long 2021, "LogME: Practical Assessment of Pre-trained Models for Transfer
Learning", ICML (arXiv 2102.11005). For each class, y = 1 for its images and 0 for the others:

    y = F w + noise,   w ~ N(0, I / alpha),   noise ~ N(0, I / beta)

    LogME = mean over classes of  max over alpha, beta of  log p(y | F) / N

Higher is better; the unit is nats an image, and values may be negative or positive.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor
from torch.nn import functional

from ensemble.errors import FitStoppedError
from ensemble.hscore import class_moments

_GRID_STEP = 0.25
_GRID_MARGIN = math.log(1e9)
_RELATIVE_NOISE_FLOOR = 1e-12
_RELATIVE_RANK_TOLERANCE = 1e-14


def log_maximum_evidence(
    features: Tensor, labels: Tensor, should_stop: Callable[[], bool] = lambda: False
) -> float:
    """Return LogME in nats an image, averaged over the classes present.

    With t = alpha / beta, s_i the singular values of F (not centred, as in the paper) and z_i the
    components of y along its left singular vectors, the best noise variance is in closed form:

        1/beta = [ sum_i z_i^2 t/(t + s_i^2) + |y|^2 - |z|^2 ] / N
        log p  = -N/2 (log 2 pi + 1 + log 1/beta) - 1/2 sum_i log(1 + s_i^2/t)

    and t is searched for over its whole range. Unchanged by scaling or rotating the features.

    Departures from the paper: its fixed-point iteration from alpha = beta = 1 ends in whichever
    local maximum lies near, which depends on the scale of the features; the highest is taken here.
    Where y is an exact linear function of fewer features than images the evidence is infinite;
    1/beta is kept above 1e-12 of the mean of y^2.

    Args:
        features: (N, D), finite, N >= 2; N < D is welcome.
        labels: (N,), any integers. One class alone has a value too, which means nothing.
        should_stop: Asked between two classes, each of which has a search of its own.

    Raises:
        ShapeError: Features and labels do not fit each other.
        NonFiniteError: A feature is NaN or infinite.
        DegenerateFeaturesError: Fewer than two images, or all features are constant.
        FitStoppedError: `should_stop` returned true.
    """
    moments = class_moments(features, labels)
    one_hot = functional.one_hot(moments.class_of_row, moments.num_classes).double()  # (N, C)
    U, singular, _ = torch.linalg.svd(features.double(), full_matrices=False)
    kept = singular > singular[0] * max(features.shape) * _RELATIVE_RANK_TOLERANCE
    squares = (U[:, kept].T @ one_hot) ** 2  # z^2, (r, C)
    evidence = _Evidence(singular[kept] ** 2, squares, one_hot.sum(0), len(features))
    total = 0.0
    for c in range(moments.num_classes):
        if should_stop():
            raise FitStoppedError(f"stopped after LogME of {c} of {moments.num_classes} classes")
        total += evidence.maximum(c)
    return total / moments.num_classes


class _Evidence:
    """log p(y_c | F) / N as a function of log t.

    Args:
        eigenvalues: s^2, (r,), descending and positive.
        squares: z^2, (r, C).
        totals: |y|^2, (C,).
        num_images: N.
    """

    def __init__(
        self, eigenvalues: Tensor, squares: Tensor, totals: Tensor, num_images: int
    ) -> None:
        self.eigenvalues, self.squares, self.num_images = eigenvalues, squares, num_images
        self.outside = (totals - squares.sum(0)).clamp_min(0)  # |y|^2 - |z|^2, (C,)
        self.least_noise = _RELATIVE_NOISE_FLOOR * totals / num_images  # (C,)
        low = math.log(float(eigenvalues[-1])) - _GRID_MARGIN
        high = math.log(float(eigenvalues[0])) + _GRID_MARGIN
        self.grid = torch.arange(low, high, _GRID_STEP, dtype=torch.float64)  # (T,)
        self.on_grid = self.at(self.grid, slice(None))  # (T, C)

    def at(self, log_t: Tensor, classes: slice) -> Tensor:
        """Log t (T,) to log p / N (T, K) of K of the classes."""
        t, N = log_t.exp()[:, None], self.num_images
        shrunk = t / (t + self.eigenvalues)  # (T, r)
        residual = shrunk @ self.squares[:, classes] + self.outside[classes]  # (T, K)
        noise = torch.maximum(residual / N, self.least_noise[classes])
        complexity = torch.log1p(self.eigenvalues / t).sum(1, keepdim=True)  # (T, 1)
        return -0.5 * (math.log(2 * math.pi) + 1 + noise.log() + complexity / N)

    def maximum(self, c: int) -> float:
        """Maximum of class c: the best grid point, and the best between its neighbours."""
        best = int(self.on_grid[:, c].argmax())
        center = float(self.grid[best])

        def negative(log_t: float) -> float:
            return -float(self.at(torch.tensor([log_t], dtype=torch.float64), slice(c, c + 1)))

        found: Any = minimize_scalar(
            negative, bounds=(center - _GRID_STEP, center + _GRID_STEP), method="bounded"
        )
        return max(-float(found.fun), float(self.on_grid[best, c]))
