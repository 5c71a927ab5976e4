"""From the rows of a batch to their features, each row under its own prompt."""

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ensemble.prompted_vit import PromptedViT
from service.inference.rows import Row


class BackbonePass(Protocol):
    """Computes features (B, D) float32, on the backbone's device, of rows with one batch key."""

    def __call__(self, rows: list[Row]) -> Tensor:
        """Run the backbone once."""
        ...


class EagerPass:
    """Runs the backbone as it is, at the size of the batch.

    Args:
        vit: The backbone, on its device.
    """

    def __init__(self, vit: PromptedViT) -> None:
        self._vit = vit

    def __call__(self, rows: list[Row]) -> Tensor:
        """Run the backbone once."""
        pixels = torch.from_numpy(np.stack([row.pixels for row in rows]))  # (B, 3, H, W)
        if self._vit.device.type == "cuda":
            pixels = pixels.pin_memory().to(self._vit.device, non_blocking=True)
        prompts = prompts_of(rows)
        return self._vit(pixels, torch.stack(prompts) if prompts else None)


def prompts_of(rows: list[Row]) -> list[Tensor]:
    """Return the rows' prompts (L, P, D), of one shape; nothing if they have none."""
    return [row.entry.prompt for row in rows if row.entry.prompt is not None]
