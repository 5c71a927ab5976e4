"""Forward passes on a GPU, queued by several threads and computed one after another."""

import threading

import torch

from service.inference.backbone_pass import BackbonePass
from service.inference.forward import ComputedRow, wanted_features
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
            are_wanted = any(row.wants_features for row in rows)
            copied = features.to("cpu", non_blocking=True) if are_wanted else None
            done = torch.cuda.Event(blocking=True)
            done.record()
        done.synchronize()
        counts = [len(entry.head_bias) for entry in entries]
        probabilities = flat_probabilities(logits.numpy(), counts)
        return list(zip(probabilities, wanted_features(rows, copied), strict=True))

    def free_cached(self) -> None:
        """Give back what is cached of the device's memory; not while a graph is captured.

        Raises:
            RuntimeError: torch cannot, as after a capture that failed.
        """
        with self._queuing:
            torch.cuda.empty_cache()
