"""Stratified splits of labelled images."""

import torch
from torch import Tensor

from ensemble.errors import TooFewImagesError


def stratified_split(
    labels: Tensor, validation_fraction: float, seed: int
) -> tuple[Tensor, Tensor]:
    """Split row indices so that each class is divided by the same fraction.

    Every class keeps at least one training image; a class with one image has none held out.

    Args:
        labels: (N,) integers.
        validation_fraction: Share held out, in (0, 1), rounded to whole images a class.
        seed: Of the shuffle.

    Returns:
        Row indices (N_train,) and (N_validation,), each sorted.

    Raises:
        TooFewImagesError: Nothing would be held out.
    """
    generator = torch.Generator().manual_seed(seed)
    train: list[Tensor] = []
    validation: list[Tensor] = []
    for label in labels.unique().tolist():
        rows = torch.nonzero(labels == label).flatten()
        rows = rows[torch.randperm(len(rows), generator=generator)]
        held_out = min(len(rows) - 1, round(len(rows) * validation_fraction))
        validation.append(rows[:held_out])
        train.append(rows[held_out:])
    held_out_rows = torch.cat(validation)
    if len(held_out_rows) == 0:
        raise TooFewImagesError(
            f"{len(labels)} images in {len(train)} classes: none is large enough for "
            f"{validation_fraction:g} of it to be an image; the largest has {max(map(len, train))}"
        )
    return torch.cat(train).sort().values, held_out_rows.sort().values
