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
        return list(zip(probabilities, wanted_features(rows, features), strict=True))

    def free_cached(self) -> None:
        """Give back what is cached of the device's memory: nothing."""


def wanted_features(rows: list[Row], features: Tensor | None) -> list[np.ndarray | None]:
    """Return the features of the rows that asked for them.

    Args:
        rows: The B rows of a batch.
        features: (B, D) float32 in main memory; None if no row asked.
    """
    if features is None:
        return [None] * len(rows)
    # A copy: a row that is kept for long should not keep the others' features.
    return [
        each.copy() if row.wants_features else None
        for row, each in zip(rows, features.numpy(), strict=True)
    ]
