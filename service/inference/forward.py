"""One forward pass: the rows of a batch through the backbone and their heads."""

import numpy as np
import torch
from torch import Tensor

from service.inference.backbone_pass import BackbonePass
from service.inference.heads import class_probabilities
from service.inference.rows import Row

ComputedRow = tuple[np.ndarray, np.ndarray | None]
"""A row's class probabilities, and its features if it asked for them."""


class Forward:
    """Computes batches.

    Args:
        backbone: From rows to features; used on as many threads at once as this is.
    """

    def __init__(self, backbone: BackbonePass) -> None:
        self._backbone = backbone

    @torch.inference_mode()
    def __call__(self, rows: list[Row]) -> list[ComputedRow]:
        """Compute rows that share a batch key.

        Raises:
            RuntimeError: Whatever torch raises: out of memory, a lost device.
        """
        features = self._backbone(rows)  # (B, D)
        probabilities = class_probabilities(features, [row.entry for row in rows])
        return list(zip(probabilities, _wanted(rows, features), strict=True))


def _wanted(rows: list[Row], features: Tensor) -> list[np.ndarray | None]:
    """The features (B, D) of the rows that asked for them."""
    if not any(row.wants_features for row in rows):
        return [None] * len(rows)
    # A copy: the tensor may be a buffer that the next pass writes to.
    values = features.cpu().numpy().copy()
    return [each if row.wants_features else None for row, each in zip(rows, values, strict=True)]
