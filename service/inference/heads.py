"""Class probabilities of a batch whose rows belong to different class heads."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from service.inference.bank import ArtifactBank, BankEntry

MAX_GATHERED_ELEMENTS = 1 << 26
"""Bound on one gather of head weights, 256 MiB of float32; larger ones are done in parts."""


def class_probabilities(
    features: Tensor, entries: Sequence[BankEntry], bank: ArtifactBank
) -> list[np.ndarray]:
    """Return softmax(W f + b) of every row under its own head.

    Products and sums are taken row by row, so a row's result does not depend on its batch-mates;
    `torch.bmm` would take another kernel for a batch of one, with other last bits.

    Args:
        features: (B, D) float32, on the bank's device.
        entries: The B rows' artifacts.
        bank: Where their heads lie.

    Returns:
        B float32 arrays, the row's own class count long.
    """
    rows_by_size: dict[int, list[int]] = defaultdict(list)
    for row, entry in enumerate(entries):
        rows_by_size[entry.padded_classes].append(row)
    probabilities: dict[int, np.ndarray] = {}
    for padded, rows in rows_by_size.items():
        step = max(1, MAX_GATHERED_ELEMENTS // (padded * features.shape[1]))
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            slots = torch.tensor([entries[row].head_slot for row in part], device=features.device)
            weight, bias = bank.heads(padded, slots)  # (b, C, D), (b, C)
            logits = weight.mul_(features[part].unsqueeze(1)).sum(-1) + bias  # (b, C)
            for row, values in zip(part, logits.softmax(-1).cpu().numpy(), strict=True):
                probabilities[row] = values[: len(entries[row].classes)]
    return [probabilities[row] for row in range(len(entries))]
