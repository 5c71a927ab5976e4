"""Which images of a task a cell is fitted on, and which it is tested on."""

from typing import Literal

import torch
from torch import Tensor

Shots = int | Literal["full"]
"""Images a class, or "full" for at most `MAX_IMAGES` in the pool's own class shares."""

MAX_IMAGES = 1000
_TEST_SEED = 0


def draw_training_rows(labels: Tensor, shots: Shots, seed: int) -> Tensor:
    """Draw the rows (n,) of a pool that a fit sees, sorted; those of fewer shots are among them.

    A class of fewer than `shots` images gives all it has; a pool of fewer than 1,000 is taken
    whole for "full".

    Args:
        labels: (N,) integers.
        shots: How many.
        seed: Of the draw.
    """
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(len(labels), generator=generator)
    rank = torch.empty(len(labels), dtype=torch.float64)
    for label in labels.unique().tolist():
        rows = shuffled[labels[shuffled] == label]
        places = torch.arange(len(rows), dtype=torch.float64)
        # As shares of the class, so that the smallest ranks hold every class in proportion.
        rank[rows] = places if shots != "full" else (places + 0.5) / len(rows)
    if shots != "full":
        return (rank < shots).nonzero().flatten()
    return rank.argsort(stable=True)[:MAX_IMAGES].sort().values


def draw_test_rows(num_images: int, limit: int | None) -> Tensor:
    """Draw at most `limit` of the test images, sorted: the same for every method and seed."""
    if limit is None or num_images <= limit:
        return torch.arange(num_images)
    generator = torch.Generator().manual_seed(_TEST_SEED)
    return torch.randperm(num_images, generator=generator)[:limit].sort().values
