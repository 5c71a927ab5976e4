"""Features on a plane, to be looked at: t-SNE (van der Maaten and Hinton 2008)."""

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits
from torch import Tensor

from ensemble.errors import NonFiniteError, ShapeError

_PERPLEXITY = 30.0
"""About how many neighbours a point is kept near to."""


def t_sne(features: Tensor, *, seed: int) -> Tensor:
    """Lay features out on a plane so that near neighbours stay near.

    scikit-learn's Barnes-Hut t-SNE with PCA as its start. The perplexity is 30, for fewer than 91
    points (N - 1) / 3, but at least 2: with less than that every point knows only its nearest one
    and pairs collapse. Runs on one thread: on a busy machine several wait for each other so much
    that 2 took up to 20 times as long as 1 (N = 400, 2 cores).

    Args:
        features: (N, D), N and D at least 1. Distances are Euclidean: standardise beforehand if the
            dimensions' scales mean nothing.
        seed: The same features and seed give the same layout.

    Returns:
        (N, 2) float64 on the CPU, within [0, 1] and centred; both axes have the same scale, of no
        unit. Only neighbourhoods have a meaning: distances between groups and their sizes do not.

    Raises:
        ShapeError: Features are not a non-empty matrix.
        NonFiniteError: A feature is NaN or infinite.
    """
    if features.ndim != 2 or 0 in features.shape:  # noqa: PLR2004
        raise ShapeError(f"features {tuple(features.shape)}: expected (N, D), neither 0")
    if not bool(features.isfinite().all()):
        raise NonFiniteError("features contain NaN or infinite values")
    points = features.detach().double().cpu().numpy()  # (N, D)
    largest = float(np.abs(points).max())
    points = points - points.mean(0)
    spread = float(np.abs(points).max())
    if spread <= 1e-9 * largest:  # one point, or as good as one
        return torch.full((len(features), 2), 0.5, dtype=torch.float64)
    points = np.pad(points / spread, ((0, 0), (0, max(0, 2 - points.shape[1]))))  # PCA needs two
    return torch.from_numpy(_in_unit_box(_layout(points, seed)))


def _layout(points: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """The layout (N, 2) of at least two different points (N, D)."""
    others = len(points) - 1
    estimator = TSNE(
        n_components=2,
        perplexity=min(_PERPLEXITY, max(2.0, others / 3), others),
        init="pca",
        learning_rate="auto",
        random_state=seed % 2**32,  # what NumPy's generator takes
    )
    with threadpool_limits(limits=1):
        return np.asarray(estimator.fit_transform(points), dtype=np.float64)


def _in_unit_box(layout: NDArray[np.float64]) -> NDArray[np.float64]:
    """Move and scale a layout (N, 2) into the middle of the unit box."""
    low, high = layout.min(0), layout.max(0)
    scaled = (layout - (low + high) / 2) / float((high - low).max()) + 0.5
    return scaled.clip(0.0, 1.0)  # of rounding
