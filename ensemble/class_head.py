"""A linear class head in closed form: regularised linear discriminant analysis, cross-fitted.

    S_gamma = (1 - gamma) S_w + gamma (tr S_w / D) I       S_w: within-class covariance
    logit_c(f) = f' S_gamma^-1 m_c - m_c' S_gamma^-1 m_c / 2 + log pi_c

Friedman 1989, "Regularized Discriminant Analysis", JASA. The shrinkage gamma is chosen by 5-fold
cross-validation and the logits are calibrated by one temperature (Guo et al. 2017) fitted on the
cross-validated logits, so nothing has to be held out for either. It shares class means and
covariance with the H-score that the weights maximise. Why not ridge regression or a logistic
probe: docs/method.md has the figures.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor
from torch.nn import functional

from ensemble.checks import centred, checked_features
from ensemble.errors import DegenerateFeaturesError, TooFewImagesError

SHRINKAGES = (0.02, 0.05, 0.1, 0.2, 0.4, 0.7)
NUM_FOLDS = 5
_FOLD_SEED = 0
_ABSENT_CLASS_BIAS = -10_000.0
_FLAT = 8.0
"""Logarithm of a temperature, in units of the margins, at which all classes are as likely."""
_RELATIVE_RANK_TOLERANCE = 1e-10


@dataclass(frozen=True)
class ClassHead:
    """A linear classifier: logits = features @ weight.T + bias.

    Attributes:
        weight: (C, D), float64 as fitted.
        bias: (C,).
        shrinkage: gamma that was chosen.
        temperature: What the logits were divided by; the weights hold it already.
        held_out_logits: (N, C), calibrated logits of each image by a head that has not seen it.
    """

    weight: Tensor
    bias: Tensor
    shrinkage: float
    temperature: float
    held_out_logits: Tensor

    def logits(self, features: Tensor) -> Tensor:
        """Features (N, D) to calibrated logits (N, C), float64."""
        return features.to(self.weight) @ self.weight.T + self.bias


def fit_class_head(features: Tensor, labels: Tensor, num_classes: int) -> ClassHead:
    """Fit, cross-validate and calibrate a class head.

    Args:
        features: (N, D), finite.
        labels: (N,), integers in [0, num_classes).
        num_classes: C >= 2; a class without images is never predicted.

    Raises:
        ShapeError: Features and labels do not fit each other.
        NonFiniteError: A feature is NaN or infinite.
        TooFewImagesError: Fewer than two images.
        DegenerateFeaturesError: All features are constant.
    """
    features = checked_features(features, labels)
    if len(features) < 2:  # noqa: PLR2004
        raise TooFewImagesError(f"{len(features)} image(s); a class head needs at least 2")
    if not bool(centred(features).any()):
        raise DegenerateFeaturesError(
            f"all {features.shape[1]} features are constant over {len(features)} images"
        )
    labels = labels.long()
    held_out = torch.zeros(len(SHRINKAGES), len(features), num_classes, dtype=torch.float64)
    folds = _folds(labels)
    for fold in folds.unique().tolist():
        inside = folds != fold
        heads = _discriminants(features[inside], labels[inside], num_classes, SHRINKAGES)
        for i, (weight, bias) in enumerate(heads):
            held_out[i, ~inside] = features[~inside] @ weight.T + bias
    known, classes = of_known_class(labels), labels.unique()
    calibrated = [calibrate(logits[known], labels[known], classes) for logits in held_out]
    best = min(range(len(SHRINKAGES)), key=lambda i: calibrated[i][1])
    temperature = calibrated[best][0]
    ((weight, bias),) = _discriminants(features, labels, num_classes, SHRINKAGES[best : best + 1])
    return ClassHead(
        weight=weight / temperature,
        bias=bias / temperature,
        shrinkage=SHRINKAGES[best],
        temperature=temperature,
        held_out_logits=held_out[best] / temperature,
    )


def of_known_class(labels: Tensor) -> Tensor:
    """Return which images of labels (N,) have another one of their class, (N,) bool.

    The head that has not seen the only image of a class does not know that class: its prediction of
    it says nothing of features or calibration.
    """
    _, class_of_row, counts = labels.unique(return_inverse=True, return_counts=True)
    return counts[class_of_row] > 1


def _folds(labels: Tensor) -> Tensor:
    """Assign each image to a fold, (N,): those of a class to one after another, from the first.

    So a head that does not know a fold lacks as many images of one class as of another of its size.
    One that lacked the second image of a class alone would hardly ever predict that class: the mean
    of fewer images is longer. The only images of classes are in two folds of their own: the others
    are predicted by heads that know them, and no head is fitted on nothing.
    """
    generator = torch.Generator().manual_seed(_FOLD_SEED)
    shuffled = torch.randperm(len(labels), generator=generator)
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    counts = labels.unique(return_counts=True)[1]  # by class, as `by_class`
    first = (counts.cumsum(0) - counts).repeat_interleave(counts)
    rank = torch.arange(len(labels)) - first  # within the class
    alone = (counts == 1).repeat_interleave(counts)
    of_alone = NUM_FOLDS + torch.arange(len(labels)) % 2
    folds = torch.empty_like(labels)
    folds[by_class] = torch.where(alone, of_alone, rank % NUM_FOLDS)
    return folds


def _discriminants(
    features: Tensor, labels: Tensor, num_classes: int, shrinkages: Sequence[float]
) -> list[tuple[Tensor, Tensor]]:
    """Weight (C, D) and bias (C,) for each shrinkage, from one eigendecomposition."""
    N, D = features.shape
    counts = torch.bincount(labels, minlength=num_classes).double()  # (C,)
    # Centred, which adds the same to all logits: keeps the bias small enough for float32.
    center = features.mean(0)  # (D,)
    features = centred(features)
    sums = torch.zeros(num_classes, D, dtype=torch.float64).index_add(0, labels, features)
    means = sums / counts.clamp_min(1)[:, None]  # (C, D)
    residuals = features - means[labels]  # (N, D)
    # With one image in every class, S_w = 0: the total covariance sets the scale instead.
    within = float((residuals**2).sum()) / N
    total = float((features**2).sum()) / N
    isotropic = (within if within > _RELATIVE_RANK_TOLERANCE * total else total) / D
    if isotropic == 0:  # constant features, as in a fold of copies: the class shares decide
        isotropic = 1.0
    eigenvalues, V = _within_spectrum(residuals)  # (r,), (D, r)
    projected = means @ V  # (C, r)
    present = counts > 0
    all_present = bool(present.all())
    heads: list[tuple[Tensor, Tensor]] = []
    for gamma in shrinkages:
        floor = gamma * isotropic
        kept = (1 - gamma) * eigenvalues
        # S_gamma^-1 = (I - V diag(kept / (kept + floor)) V') / floor
        weight = (means - (projected * (kept / (kept + floor))) @ V.T) / floor  # (C, D)
        bias = -0.5 * (weight * means).sum(1) + (counts / N).clamp_min(1 / N).log()
        if not all_present:
            # Far below the average of the logits of the others, hence below the best of them,
            # whatever temperature suits those.
            spread = float((means[present] @ weight[present].T + bias[present]).abs().max())
            weight[~present] = weight[present].mean(0)
            bias[~present] = bias[present].mean() + _ABSENT_CLASS_BIAS * max(1.0, spread)
        bias -= weight @ center
        heads.append((weight, bias))
    return heads


def _within_spectrum(residuals: Tensor) -> tuple[Tensor, Tensor]:
    """Positive eigenvalues (r,) of residuals' residuals / N, and their vectors (D, r)."""
    N, D = residuals.shape
    products = residuals @ residuals.T if N < D else residuals.T @ residuals
    eigenvalues, vectors = torch.linalg.eigh(products / N)
    positive = eigenvalues > eigenvalues[-1] * _RELATIVE_RANK_TOLERANCE
    eigenvalues, vectors = eigenvalues[positive], vectors[:, positive]
    if N < D:
        vectors = residuals.T @ vectors / (eigenvalues * N).sqrt()
    return eigenvalues, vectors


def calibrate(logits: Tensor, labels: Tensor, classes: Tensor) -> tuple[float, float]:
    """Return the temperature (> 0) that suits logits (N, C), and their log-loss at it, in nats.

    `classes` are those that the head has learned, labels (N,) among them.

    Guo et al. 2017, "On Calibration of Modern Neural Networks", ICML, with smoothed targets as in
    Platt 1999: the label has probability 1 - 1 / (N + 2), the other classes share the rest, also if
    all N images are of one. So logits that are right on all N images have a finite best
    temperature, not one at which the first error on another image costs thousands of nats. 1 and 0
    without images.
    """
    if len(labels) == 0:
        return 1.0, 0.0
    own = logits.gather(1, labels[:, None])[:, 0]
    others = (logits[:, classes].sum(1) - own) / max(1, len(classes) - 1)
    margins = own - others if len(classes) > 1 else torch.zeros_like(own)
    # What moving that much of the target to the others costs, times the temperature.
    smoothing = float(margins.mean()) / (len(labels) + 2)

    def log_loss(temperature: float) -> float:
        return float(functional.cross_entropy(logits / temperature, labels))

    def smoothed(log_temperature: float) -> float:
        temperature = math.exp(log_temperature)
        return log_loss(temperature) + smoothing / temperature

    # Right on all images, the best one is below the margins; right by chance, far above them.
    largest = math.log(float(margins.abs().mean()) + 1) + _FLAT
    bounds = (-3.0, largest)
    found: Any = minimize_scalar(smoothed, bounds=bounds, method="bounded", options={"xatol": 0.01})
    temperature = math.exp(float(found.x))
    return temperature, log_loss(temperature)
