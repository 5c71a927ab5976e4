"""Class probabilities of a batch whose rows belong to different class heads."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from service.inference.bank import BankEntry

MAX_GATHERED_ELEMENTS = 1 << 26
"""Bound on one gather of head weights, 256 MiB of float32; larger ones are done in parts."""


def class_probabilities(features: Tensor, entries: Sequence[BankEntry]) -> list[np.ndarray]:
    """Return softmax(W f + b) of every row under its own head.

    Every product is taken row by row, so a row's result does not depend on its batch-mates; a
    product of several rows at once would take another kernel, with other last bits, than of one.

    Args:
        features: (B, D) float32, on the device of the heads.
        entries: The B rows' artifacts.

    Returns:
        B float32 arrays, the row's own class count long.
    """
    logits = _row_by_row if features.device.type == "cpu" else gathered_logits
    return [softmax(each) for each in logits(features, entries)]


def _row_by_row(features: Tensor, entries: Sequence[BankEntry]) -> list[np.ndarray]:
    return [
        torch.addmv(entry.head_bias, entry.head_weight, feature).numpy()
        for feature, entry in zip(features, entries, strict=True)
    ]


def gathered_logits(features: Tensor, entries: Sequence[BankEntry]) -> list[np.ndarray]:
    """Return W f + b of every row with few kernels and one copy back, as a GPU wants it.

    The heads are laid end to end, so none is padded to the size of another.
    """
    counts = [len(entry.head_bias) for entry in entries]
    flat: list[Tensor] = []
    for begin, end in _parts(counts, MAX_GATHERED_ELEMENTS // features.shape[1]):
        weight = torch.cat([entry.head_weight for entry in entries[begin:end]])  # (sum C, D)
        bias = torch.cat([entry.head_bias for entry in entries[begin:end]])  # (sum C,)
        repeats = torch.tensor(counts[begin:end]).to(features.device, non_blocking=True)
        rows = features[begin:end].repeat_interleave(repeats, dim=0, output_size=len(bias))
        flat.append(weight.mul_(rows).sum(-1) + bias)
    ends = np.cumsum(counts)[:-1]
    return np.split(torch.cat(flat).cpu().numpy(), ends)


def _parts(counts: Sequence[int], limit: int) -> list[tuple[int, int]]:
    """Split rows into runs whose class counts sum up to at most `limit`, or of one row."""
    parts: list[tuple[int, int]] = []
    begin = total = 0
    for row, count in enumerate(counts):
        if row > begin and total + count > limit:
            parts.append((begin, row))
            begin, total = row, 0
        total += count
    return [*parts, (begin, len(counts))]


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return the probabilities (C,) of one row's logits (C,); NaN where they are not finite."""
    with np.errstate(invalid="ignore"):
        powers = np.exp(logits - logits.max())
    return powers / powers.sum()
