"""The threads that own the backbone and run one forward pass after another."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from service.inference.batcher import Batch, Batcher
from service.inference.errors import DeadlineExceededError, EngineFailedError, NotFiniteError
from service.inference.forward import ComputedRow
from service.inference.rows import Row, RowOutcome, RowResult

logger = logging.getLogger(__name__)

UNHEALTHY_AFTER_FAILURES = 3
"""Batches that fail in a row before the engine reports itself unhealthy (a lost GPU, say)."""

MAX_PASS_S = 120.0
"""A forward pass that takes longer never comes back (a GPU's driver that hangs, say)."""


@dataclass(frozen=True)
class BatchReport:
    """What one forward pass did, for the metrics.

    Attributes:
        size: Rows in it.
        num_artifacts: Distinct artifacts among them.
        forward_s: Its duration.
        queue_s: How long each row had waited.
        failed: Whether the forward pass over all rows raised an exception. It may have succeeded
            in parts.
    """

    size: int
    num_artifacts: int
    forward_s: float
    queue_s: tuple[float, ...]
    failed: bool


Compute = Callable[[list[Row]], list[ComputedRow]]
Deliver = Callable[[list[tuple[Row, RowOutcome]]], None]


def _do_nothing(*_: Batch) -> None:
    pass


def _has_no_room() -> bool:
    return False


class Engine:
    """Runs batches until the batcher is closed and empty, on one thread for each stream.

    Work-conserving: an idle stream takes what there is at once; while batches run, the next one
    fills. A batch that fails is tried again in halves, so that only the rows that fail alone get
    an error; then the next one runs. One that runs out of the device's memory is tried as a whole
    again before, if something could leave.

    Args:
        compute: The forward pass; with several streams, it runs on several threads at once.
        batcher: Where the rows come from.
        deliver: Called on a stream's thread with the outcomes of each batch.
        report: Called on a stream's thread after each forward pass.
        prepare: Called on a stream's thread before each forward pass.
        make_room: Called on a stream's thread when a pass ran out of memory; has what is idle on
            the device leave, and says whether there was any.
        free_cached: Called on a stream's thread before rows are tried again, perhaps fewer, which
            may need blocks of memory of another size; gives cached ones back.
        num_streams: As many as the batcher has.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        compute: Compute,
        batcher: Batcher,
        *,
        deliver: Deliver,
        report: Callable[[BatchReport], None],
        prepare: Callable[[Batch], None] = _do_nothing,
        make_room: Callable[[], bool] = _has_no_room,
        free_cached: Callable[[], None] = _do_nothing,
        num_streams: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._compute = compute
        self._batcher = batcher
        self._deliver = deliver
        self._report = report
        self._clock = clock
        self._prepare = prepare
        self._make_room = make_room
        self._free_cached = free_cached
        self._failures = [0] * num_streams  # of each stream, since its last success
        self._began_s: list[float | None] = [None] * num_streams  # the pass that each runs
        self._threads = [
            threading.Thread(target=self._run, args=(each,), name=f"engine-{each}", daemon=True)
            for each in range(num_streams)
        ]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def stop(self, timeout_s: float) -> bool:
        """Finish what is queued and end the threads; False if that took longer than allowed."""
        self._batcher.close()
        until_s = self._clock() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, until_s - self._clock()))
        return not any(thread.is_alive() for thread in self._threads)

    @property
    def healthy(self) -> bool:
        """Whether every thread runs, none hangs, and on none the latest batches all failed."""
        return (
            all(thread.is_alive() for thread in self._threads)
            and max(self._failures) < UNHEALTHY_AFTER_FAILURES
            and not any(self._hangs(began_s) for began_s in self._began_s)
        )

    def _hangs(self, began_s: float | None) -> bool:
        return began_s is not None and self._clock() - began_s > MAX_PASS_S

    def _run(self, stream: int) -> None:
        while (batch := self._batcher.next_batch(stream)) is not None:
            if batch.late:
                error = DeadlineExceededError("the deadline passed while the image was queued")
                self._deliver([(row, error) for row in batch.late])
            if batch.rows:
                self._prepare(batch)
                self._run_batch(batch.rows, stream)
            del batch  # waiting for the next one, it would keep pixels and artifacts in memory

    def _run_batch(self, rows: list[Row], stream: int) -> None:
        started_s = self._clock()
        computed, failed = self._computed(stream, rows)
        self._batcher.computed(stream, failed=failed)
        num_failed = sum(each is None for each in computed)
        self._failures[stream] = self._failures[stream] + 1 if num_failed == len(rows) else 0
        forward_s = self._clock() - started_s
        waits = tuple(started_s - row.submitted_s for row in rows)
        self._deliver(
            [
                (row, _outcome(row, each, wait, forward_s, len(rows)))
                for row, each, wait in zip(rows, computed, waits, strict=True)
            ]
        )
        digests = {row.entry.digest for row in rows}
        self._report(BatchReport(len(rows), len(digests), forward_s, waits, failed))

    def _pass(self, stream: int, rows: list[Row]) -> list[ComputedRow]:
        """One forward pass, of which `healthy` knows since when it runs."""
        self._began_s[stream] = self._clock()
        try:
            return self._compute(rows)
        finally:
            self._began_s[stream] = None

    def _pass_again(self, stream: int, rows: list[Row]) -> list[ComputedRow]:
        """One more forward pass, after one that failed."""
        try:
            self._free_cached()
        except Exception:
            logger.exception("cached memory could not be given back")
        return self._pass(stream, rows)

    def _computed(self, stream: int, rows: list[Row]) -> tuple[list[ComputedRow | None], bool]:
        """What each row computes to, None if it fails even alone; whether all together failed."""
        try:
            return [*self._pass(stream, rows)], False
        except Exception as error:
            logger.exception("forward pass failed", extra={"batch_size": len(rows)})
            out_of_memory = isinstance(error, torch.OutOfMemoryError)
        compute = partial(self._pass_again, stream)
        if out_of_memory and self._make_room():
            again = _tried(compute, rows)
            if again is not None:
                return [*again], True
        return _in_halves(compute, rows), True


def _in_halves(compute: Compute, rows: list[Row]) -> list[ComputedRow | None]:
    """Try the halves of a batch that failed, and their halves."""
    if len(rows) == 1:
        return [None]
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
    row: Row, computed: ComputedRow | None, queue_s: float, forward_s: float, batch_size: int
) -> RowOutcome:
    """The row's result, or why it has none."""
    if computed is None:
        return EngineFailedError("the forward pass failed for this image")
    probabilities, features = computed
    if not np.isfinite(probabilities).all():
        if row.pixels.dtype == np.uint8:
            return EngineFailedError("the image's probabilities are not finite")
        return NotFiniteError("the pixels hold values that give no finite probabilities")
    return RowResult(probabilities, row.entry.digest, queue_s, forward_s, batch_size, features)
