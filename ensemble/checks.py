"""What every score and head asks of its inputs."""

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
