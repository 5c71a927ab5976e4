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
    if features.device.type != "cpu":
        counts = [len(entry.head_bias) for entry in entries]
        return flat_probabilities(flat_logits(features, entries).cpu().numpy(), counts)
    return [
        softmax(torch.addmv(entry.head_bias, entry.head_weight, feature).numpy())
        for feature, entry in zip(features, entries, strict=True)
    ]


def flat_logits(features: Tensor, entries: Sequence[BankEntry]) -> Tensor:
    """Return W f + b of every row with few kernels, as a GPU wants it, without waiting for them.

    The heads are laid end to end, so none is padded to the size of another.

    Args:
        features: (B, D) float32, on the device of the heads.
        entries: The B rows' artifacts.

    Returns:
        (sum C,) float32 on the device, the rows' logits one after another.
    """
    counts = [len(entry.head_bias) for entry in entries]
    flat: list[Tensor] = []
    for begin, end in _parts(counts, MAX_GATHERED_ELEMENTS // features.shape[1]):
        weight = torch.cat([entry.head_weight for entry in entries[begin:end]])  # (sum C, D)
        bias = torch.cat([entry.head_bias for entry in entries[begin:end]])  # (sum C,)
        rows = _repeated(features[begin:end], counts[begin:end])
        flat.append(weight.mul_(rows).sum(-1) + bias)
    return torch.cat(flat)


def flat_probabilities(logits: np.ndarray, counts: Sequence[int]) -> list[np.ndarray]:
    """Return the softmax of each row.

    Args:
        logits: (sum C,) float32, the rows' logits one after another.
        counts: Classes C of each row.

    Returns:
        B arrays, the row's own class count long; NaN where its logits are not finite.
    """
    ends = np.cumsum(counts, dtype=np.intp)
    begins = ends - counts
    with np.errstate(invalid="ignore"):
        powers = np.exp(logits - np.repeat(np.maximum.reduceat(logits, begins), counts))
        powers /= np.repeat(np.add.reduceat(powers, begins), counts)
    return [powers[begin:end] for begin, end in zip(begins, ends, strict=True)]


def _repeated(features: Tensor, counts: Sequence[int]) -> Tensor:
    """Features (B, D), each as often as its row has classes: (sum C, D)."""
    if len(set(counts)) == 1:
        return features.repeat_interleave(counts[0], dim=0)
    repeats = torch.tensor(counts).to(features.device, non_blocking=True)
    return features.repeat_interleave(repeats, dim=0, output_size=sum(counts))


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
