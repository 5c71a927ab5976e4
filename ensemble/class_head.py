"""A linear class head in closed form, with its penalty and temperature chosen by leave-one-out.

Ridge regression on one-hot targets over standardised features. One eigendecomposition of the
Gram matrix gives, for every penalty, the fit *and* the exact leave-one-out residuals
(Allen 1974, PRESS), so nothing is held out to choose the penalty and no solver iterates.
The scores become calibrated logits by one temperature (Guo et al. 2017), fitted on the
leave-one-out scores. Standardisation and temperature are folded into weight and bias.
"""

from dataclasses import dataclass

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor
from torch.nn import functional

from ensemble.errors import NonFiniteError, ShapeError, TooFewImagesError

RELATIVE_PENALTIES = tuple(10.0**k for k in (-4, -3.5, -3, -2.5, -2, -1.5, -1, -0.5, 0, 0.5, 1))
"""Penalties tried, as multiples of the Gram matrix's mean eigenvalue times N."""

_MIN_STD = 1e-6
_MAX_LEVERAGE = 1 - 1e-6


@dataclass(frozen=True)
class ClassHead:
    """A linear classifier on raw features: logits = features @ weight.T + bias.

    Attributes:
        weight: (C, D), float64 as fitted.
        bias: (C,).
        penalty: Relative penalty that was chosen.
        loo_logits: (N, C), calibrated logits of each image by the head that has not seen it.
    """

    weight: Tensor
    bias: Tensor
    penalty: float
    loo_logits: Tensor

    def logits(self, features: Tensor) -> Tensor:
        """Features (N, D) to calibrated logits (N, C), float64."""
        return features.to(self.weight) @ self.weight.T + self.bias


def fit_class_head(features: Tensor, labels: Tensor, num_classes: int) -> ClassHead:
    """Fit a ridge classifier and calibrate it.

    Args:
        features: (N, D), finite.
        labels: (N,), integers in [0, num_classes).
        num_classes: C >= 2; a class without images gets the lowest score everywhere.

    Raises:
        ShapeError: Features and labels do not fit each other.
        NonFiniteError: A feature is NaN or infinite.
        TooFewImagesError: Fewer than two images.
    """
    if features.ndim != 2 or labels.shape != features.shape[:1]:  # noqa: PLR2004
        raise ShapeError(
            f"features {tuple(features.shape)} and labels {tuple(labels.shape)}: "
            "expected (N, D) and (N,)"
        )
    if len(features) < 2:  # noqa: PLR2004
        raise TooFewImagesError(f"{len(features)} image(s); a class head needs at least 2")
    features = features.double()
    if not bool(features.isfinite().all()):
        raise NonFiniteError("features contain NaN or infinite values")
    mean = features.mean(0)  # (D,)
    std = features.std(0, correction=0).clamp_min(_MIN_STD)  # (D,)
    Z = (features - mean) / std  # (N, D)
    Y = functional.one_hot(labels.long(), num_classes).double()  # (N, C)
    dual, intercept, loo, penalty = _ridge_loo(Z, Y)
    temperature = _fit_temperature(loo, labels)
    weight = (Z.T @ dual).T / std / temperature  # (C, D)
    bias = intercept / temperature - weight @ mean  # (C,)
    return ClassHead(weight=weight, bias=bias, penalty=penalty, loo_logits=loo / temperature)


def _ridge_loo(Z: Tensor, Y: Tensor) -> tuple[Tensor, Tensor, Tensor, float]:
    """Dual weights (N, C), intercept (C,), leave-one-out scores (N, C) and the penalty."""
    N = len(Z)
    intercept = Y.mean(0)  # (C,)
    eigenvalues, U = torch.linalg.eigh(Z @ Z.T)  # (N,), (N, N)
    eigenvalues = eigenvalues.clamp_min(0)
    UtY = U.T @ (Y - intercept)  # (N, C)
    scale = float(eigenvalues.mean().clamp_min(_MIN_STD)) * N
    best = None
    for relative in RELATIVE_PENALTIES:
        shrunk = eigenvalues / (eigenvalues + relative * scale / N)  # (N,)
        fitted = U @ (shrunk[:, None] * UtY) + intercept  # (N, C)
        leverage = ((U**2) @ shrunk + 1 / N).clamp_max(_MAX_LEVERAGE)  # (N,)
        residual = (Y - fitted) / (1 - leverage)[:, None]
        press = float((residual**2).mean())
        if best is None or press < best[0]:
            best = (press, relative, Y - residual)
    assert best is not None  # noqa: S101  # the grid is not empty
    _, relative, loo = best
    dual = U @ (UtY / (eigenvalues + relative * scale / N)[:, None])  # (N, C)
    return dual, intercept, loo, relative


def _fit_temperature(scores: Tensor, labels: Tensor) -> float:
    """The temperature (> 0) that minimises the log-loss of scores (N, C)."""

    def log_loss(log_temperature: float) -> float:
        logits = scores / torch.exp(torch.tensor(log_temperature, dtype=torch.float64))
        return float(functional.cross_entropy(logits, labels.long()))

    found = minimize_scalar(log_loss, bounds=(-5.0, 2.0), method="bounded")
    return float(torch.exp(torch.tensor(found.x, dtype=torch.float64)))
