"""What every score and head asks of its inputs."""

import torch
from torch import Tensor

from ensemble.errors import NonFiniteError, ShapeError


def checked_features(features: Tensor, labels: Tensor) -> Tensor:
    """Return features as float64, once they are known to fit their labels.

    Args:
        features: (N, D).
        labels: (N,).

    Raises:
        ShapeError: Features and labels do not fit each other.
        NonFiniteError: A feature is NaN or infinite.
    """
    if features.ndim != 2 or labels.shape != features.shape[:1]:  # noqa: PLR2004
        raise ShapeError(
            f"features {tuple(features.shape)} and labels {tuple(labels.shape)}: "
            "expected (N, D) and (N,)"
        )
    if not bool(features.isfinite().all()):
        raise NonFiniteError("features contain NaN or infinite values")
    return features.double()


def centred(features: Tensor) -> Tensor:
    """Return float64 features (N, D) less their mean, exactly 0 where they are constant.

    The mean of features far from 0 is off by their rounding, the same in every row: one false
    direction of variance, unless it is taken out as well.
    """
    rounding = features.detach().abs().max() * torch.finfo(torch.float64).eps * len(features)
    once = features - features.mean(0)
    if bool(once.detach().abs().max() <= rounding):
        return torch.zeros_like(features)
    return once - once.mean(0)
