"""The thread that owns the backbone and runs one forward pass after another."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from service.inference.batcher import Batcher
from service.inference.errors import DeadlineExceededError, EngineFailedError, NotFiniteError
from service.inference.forward import ComputedRow
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
        failed: Whether an exception left any of the rows without a result.
    """

    size: int
    num_artifacts: int
    forward_s: float
    queue_s: tuple[float, ...]
    failed: bool


Compute = Callable[[list[Row]], list[ComputedRow]]
Deliver = Callable[[list[tuple[Row, RowOutcome]]], None]


class Engine:
    """Runs batches until the batcher is closed and empty.

    Work-conserving: an idle engine takes what there is at once; while a batch runs, the next one
    fills. A batch that fails is tried again in halves, so that only the rows that fail alone get
    an error; then the next one runs.

    Args:
        compute: The forward pass.
        batcher: Where the rows come from.
        deliver: Called on the engine's thread with the outcomes of each batch.
        report: Called on the engine's thread after each forward pass.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        compute: Compute,
        batcher: Batcher,
        *,
        deliver: Deliver,
        report: Callable[[BatchReport], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._compute = compute
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
            if batch.late:
                error = DeadlineExceededError("the deadline passed while the image was queued")
                self._deliver([(row, error) for row in batch.late])
            if batch.rows:
                self._run_batch(batch.rows)

    def _run_batch(self, rows: list[Row]) -> None:
        started_s = self._clock()
        computed = self._computed(rows)
        num_failed = sum(each is None for each in computed)
        self._failures = self._failures + 1 if num_failed == len(rows) else 0
        forward_s = self._clock() - started_s
        waits = tuple(started_s - row.submitted_s for row in rows)
        self._deliver(
            [
                (row, _outcome(row, each, wait, forward_s))
                for row, each, wait in zip(rows, computed, waits, strict=True)
            ]
        )
        digests = {row.entry.digest for row in rows}
        self._report(BatchReport(len(rows), len(digests), forward_s, waits, num_failed > 0))

    def _computed(self, rows: list[Row]) -> list[ComputedRow | None]:
        """What each row computes to; None for a row that fails even alone."""
        try:
            return [*self._compute(rows)]
        except Exception:
            logger.exception("forward pass failed", extra={"batch_size": len(rows)})
        return _in_halves(self._compute, rows)


def _in_halves(compute: Compute, rows: list[Row]) -> list[ComputedRow | None]:
    """Try the halves of a batch that failed, and their halves."""
    if len(rows) == 1:
        return [None]
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()  # a smaller batch may need blocks of another size
    half = len(rows) // 2
    computed: list[ComputedRow | None] = []
    for part in (rows[:half], rows[half:]):
        done = _tried(compute, part)
        computed += _in_halves(compute, part) if done is None else done
    return computed


def _tried(compute: Compute, rows: list[Row]) -> list[ComputedRow] | None:
    """None if it fails; the exception, and what its frames hold of the device, is let go."""
    try:
        return compute(rows)
    except Exception as error:  # noqa: BLE001 - the failure of the whole batch has been logged
        logger.warning("part of it failed: %s", error, extra={"batch_size": len(rows)})
        return None


def _outcome(
    row: Row, computed: ComputedRow | None, queue_s: float, forward_s: float
) -> RowOutcome:
    """The row's result, or why it has none."""
    if computed is None:
        return EngineFailedError("the forward pass failed for this image")
    probabilities, features = computed
    if not np.isfinite(probabilities).all():
        if row.pixels.dtype == np.uint8:
            return EngineFailedError("the image's probabilities are not finite")
        return NotFiniteError("the pixels hold values that give no finite probabilities")
    return RowResult(probabilities, row.entry.digest, queue_s, forward_s, features)
