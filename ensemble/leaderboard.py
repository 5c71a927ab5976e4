"""Candidates scored on the same held-out images, with intervals."""

import math
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor
from torch.nn import functional

from ensemble.options import Method
from ensemble.wilson import wilson_interval

_ECE_BINS = 15


@dataclass(frozen=True)
class Standing:
    """A candidate's place on the leaderboard.

    Attributes:
        method: How its prompt was made.
        source: Index of the one source that it starts from ("single", "logme", "panda", and the
            nearest of "spot"), or None.
        tuned: Whether its prompt was tuned on the target.
        accuracy: On the held-out images, in [0, 1].
        ci95: Wilson's 95 % interval of that accuracy.
        log_loss: In nats.
    """

    method: Method
    source: int | None
    tuned: bool
    accuracy: float
    ci95: tuple[float, float]
    log_loss: float


@dataclass(frozen=True)
class ReliabilityBin:
    """Images whose confidence lies in [low, high): what was promised and what was kept.

    `confidence` and `accuracy` are means over the `count` images, None where there are none.
    """

    low: float
    high: float
    count: int
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True)
class Validation:
    """How the chosen candidate does on the held-out images.

    Attributes:
        num_images: Held-out images.
        accuracy: In [0, 1].
        ece: Expected calibration error over 15 equal bins of confidence, in [0, 1].
        reliability: Those bins.
        confusion_matrix: (C, C) counts, row = truth, column = prediction.
    """

    num_images: int
    accuracy: float
    ece: float
    reliability: tuple[ReliabilityBin, ...]
    confusion_matrix: Tensor


def standing(
    method: Method, source: int | None, logits: Tensor, labels: Tensor, *, tuned: bool = False
) -> Standing:
    """Score calibrated logits (V, C) of held-out images with labels (V,)."""
    correct = int((logits.argmax(1) == labels).sum())
    return Standing(
        method=method,
        source=source,
        tuned=tuned,
        accuracy=correct / len(labels),
        ci95=wilson_interval(correct, len(labels)),
        log_loss=float(functional.cross_entropy(logits, labels)),
    )


def paired_difference(
    a: Tensor, b: Tensor, labels: Tensor, *, confidence: float = 0.95
) -> tuple[float, float, float]:
    """Return accuracy(a) - accuracy(b) with its interval, paired by image.

    Wald's interval after half an image more in each cell of the 2 x 2 table of who is right
    (Agresti and Min 2005, "Simple improved confidence intervals for comparing matched
    proportions", Statistics in Medicine). Without it, four images that only `a` gets right would
    be beyond chance, whatever else there is; with it the centre is a little nearer to zero than
    the difference.

    Args:
        a: Logits (V, C).
        b: Logits (V, C) of the same images.
        labels: (V,).
        confidence: Of the interval, below 1.
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    right_a, right_b = a.argmax(1) == labels, b.argmax(1) == labels
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    total = len(labels) + 2
    centre = (only_a - only_b) / total
    half = z * math.sqrt((only_a + only_b + 1) / total - centre**2) / math.sqrt(total)
    return (only_a - only_b) / len(labels), centre - half, centre + half


def validate(logits: Tensor, labels: Tensor) -> Validation:
    """Accuracy, calibration and confusions of logits (V, C) on held-out labels (V,)."""
    num_classes = logits.shape[1]
    confidence, predicted = logits.softmax(1).max(1)
    correct = (predicted == labels).double()
    bins = _reliability(confidence.double(), correct)
    gaps = [b.count * abs((b.confidence or 0.0) - (b.accuracy or 0.0)) for b in bins]
    cells = torch.bincount(labels * num_classes + predicted, minlength=num_classes**2)
    return Validation(
        num_images=len(labels),
        accuracy=float(correct.mean()),
        ece=sum(gaps) / len(labels),
        reliability=bins,
        confusion_matrix=cells.view(num_classes, num_classes),
    )


def _reliability(confidence: Tensor, correct: Tensor) -> tuple[ReliabilityBin, ...]:
    """Bin confidences (V,) of predictions that are correct (V,), 1 or 0."""
    index = (confidence * _ECE_BINS).long().clamp_max(_ECE_BINS - 1)
    bins: list[ReliabilityBin] = []
    for i in range(_ECE_BINS):
        inside = index == i
        count = int(inside.sum())
        means = [float(v[inside].mean()) if count else None for v in (confidence, correct)]
        bins.append(ReliabilityBin(i / _ECE_BINS, (i + 1) / _ECE_BINS, count, *means))
    return tuple(bins)
