"""Forward passes on a GPU, queued by several threads and computed one after another."""

import threading

import numpy as np
import torch
from torch import Tensor

from service.inference.backbone_pass import BackbonePass
from service.inference.forward import ComputedRow
from service.inference.heads import flat_logits, flat_probabilities
from service.inference.rows import Row


class GpuForward:
    """Computes batches on a GPU. Used on several threads at once.

    A thread lays its batch out and queues its kernels, one thread at a time, so that batches share
    buffers: on the device everything happens in the order in which it was queued. Then it waits for
    the results of its own batch, asleep, while another thread has its turn.

    Args:
        backbone: From rows to features; used on one thread at a time.
    """

    def __init__(self, backbone: BackbonePass) -> None:
        self._backbone = backbone
        self._queuing = threading.Lock()

    @torch.inference_mode()
    def __call__(self, rows: list[Row]) -> list[ComputedRow]:
        """Compute rows that share a batch key.

        Raises:
            RuntimeError: Whatever torch raises: out of memory, a lost device.
        """
        entries = [row.entry for row in rows]
        with self._queuing:
            features = self._backbone(rows)  # (B, D)
            logits = flat_logits(features, entries).to("cpu", non_blocking=True)
            copied = features.to("cpu", non_blocking=True) if _are_wanted(rows) else None
            done = torch.cuda.Event(blocking=True)
            done.record()
        done.synchronize()
        counts = [len(entry.head_bias) for entry in entries]
        probabilities = flat_probabilities(logits.numpy(), counts)
        return list(zip(probabilities, _wanted(rows, copied), strict=True))


def _are_wanted(rows: list[Row]) -> bool:
    return any(row.wants_features for row in rows)


def _wanted(rows: list[Row], features: Tensor | None) -> list[np.ndarray | None]:
    """The features (B, D) of the rows that asked for them."""
    if features is None:
        return [None] * len(rows)
    # A copy: a row that is kept for long should not keep the others' features.
    return [
        each.copy() if row.wants_features else None
        for row, each in zip(rows, features.numpy(), strict=True)
    ]
