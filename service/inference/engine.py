"""The thread that owns the backbone and runs one forward pass after another."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ensemble.prompted_vit import PromptedViT
from service.inference.bank import ArtifactBank
from service.inference.batcher import Batcher
from service.inference.errors import DeadlineExceededError, EngineFailedError
from service.inference.heads import class_probabilities
from service.inference.rows import Row, RowOutcome, RowResult

logger = logging.getLogger(__name__)

UNHEALTHY_AFTER_FAILURES = 3
"""Batches that fail in a row before the engine reports itself unhealthy (a lost GPU, say)."""


@dataclass(frozen=True)
class BatchReport:
    """What one forward pass did, for the metrics.

    Attributes:
        size: Rows in it.
        num_artifacts: Distinct artifacts among them.
        forward_s: Its duration.
        queue_s: How long each row had waited.
        failed: Whether it ended in an exception.
    """

    size: int
    num_artifacts: int
    forward_s: float
    queue_s: tuple[float, ...]
    failed: bool


ComputedRow = tuple[np.ndarray, np.ndarray | None]
"""A row's class probabilities, and its features if it asked for them."""

Deliver = Callable[[list[tuple[Row, RowOutcome]]], None]


class Engine:
    """Runs batches until the batcher is closed and empty.

    Work-conserving: an idle engine takes what there is at once; while a batch runs, the next one
    fills. A batch that fails is reported to its rows, and the next one runs.

    Args:
        vit: The backbone, on its device.
        bank: The resident artifacts, on the same device.
        batcher: Where the rows come from.
        deliver: Called on the engine's thread with the outcomes of each batch.
        report: Called on the engine's thread after each forward pass.
        clock: Monotonic seconds; the rows' deadlines are on it.
    """

    def __init__(
        self,
        vit: PromptedViT,
        bank: ArtifactBank,
        batcher: Batcher,
        *,
        deliver: Deliver,
        report: Callable[[BatchReport], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._vit = vit
        self._bank = bank
        self._batcher = batcher
        self._deliver = deliver
        self._report = report
        self._clock = clock
        self._failures = 0
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """Finish what is queued and end the thread; False if that took longer than allowed."""
        self._batcher.close()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    @property
    def healthy(self) -> bool:
        """Whether the thread runs and its latest batches did not all fail."""
        return self._thread.is_alive() and self._failures < UNHEALTHY_AFTER_FAILURES

    def _run(self) -> None:
        while (batch := self._batcher.next_batch()) is not None:
            now = self._clock()
            late = [row for row in batch if row.deadline_s <= now]
            if late:
                error = DeadlineExceededError("the deadline passed while the image was queued")
                self._deliver([(row, error) for row in late])
            due = [row for row in batch if row.deadline_s > now]
            if due:
                self._run_batch(due, started_s=now)

    def _run_batch(self, rows: list[Row], *, started_s: float) -> None:
        computed: list[ComputedRow] | None = None
        try:
            computed = self._forward(rows)
        except Exception:
            self._failures += 1
            logger.exception("forward pass failed", extra={"batch_size": len(rows)})
        else:
            self._failures = 0
        forward_s = self._clock() - started_s
        waits = [started_s - row.submitted_s for row in rows]
        self._deliver(_outcomes(rows, computed, waits, forward_s))
        digests = {row.entry.digest for row in rows}
        failed = computed is None
        self._report(BatchReport(len(rows), len(digests), forward_s, tuple(waits), failed))

    @torch.inference_mode()
    def _forward(self, rows: list[Row]) -> list[ComputedRow]:
        """One pass of the backbone and the rows' heads."""
        device = self._vit.device
        pixels = torch.from_numpy(np.stack([row.pixels for row in rows]))  # (B, 3, H, W)
        if device.type == "cuda":
            pixels = pixels.pin_memory().to(device, non_blocking=True)
        entries = [row.entry for row in rows]
        slots = torch.tensor([entry.prompt_slot for entry in entries], device=device)
        prompts = self._bank.prompts(entries[0].prompt_shape, slots)  # (B, L, P, D)
        features = self._vit(pixels, prompts)  # (B, D)
        probabilities = class_probabilities(features, entries, self._bank)
        return list(zip(probabilities, _wanted(rows, features), strict=True))


def _wanted(rows: list[Row], features: Tensor) -> list[np.ndarray | None]:
    """The features (B, D) of the rows that asked for them."""
    if not any(row.wants_features for row in rows):
        return [None] * len(rows)
    values = features.cpu().numpy()
    return [each if row.wants_features else None for row, each in zip(rows, values, strict=True)]


def _outcomes(
    rows: list[Row],
    computed: list[ComputedRow] | None,
    waits: list[float],
    forward_s: float,
) -> list[tuple[Row, RowOutcome]]:
    """Pair each row with its result, or all of them with the failure of their batch."""
    if computed is None:
        error = EngineFailedError(f"the forward pass of {len(rows)} images failed")
        return [(row, error) for row in rows]
    return [
        (row, RowResult(probabilities, row.entry.digest, wait, forward_s, features))
        for row, (probabilities, features), wait in zip(rows, computed, waits, strict=True)
    ]
