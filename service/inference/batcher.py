"""Which rows go into the next forward pass.

Rows of one batch share their `batch_key`, so each key has its own `FairQueue`. Within and
between those, the artifact that has been served the fewest rows goes first.
"""

import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from service.inference.fair_queue import FairQueue
from service.inference.rows import BatchKey, Row


@dataclass
class Batch:
    """What the engine has to do next.

    Attributes:
        rows: For one forward pass; none of them is late or cancelled.
        late: Their deadline passed in the queue; they took no room in `rows`.
    """

    rows: list[Row] = field(default_factory=list)
    late: list[Row] = field(default_factory=list)


class Batcher:
    """The queue between the requests and the engine thread. Thread-safe.

    It never refuses a row: `admission` bounds how many there are.

    Args:
        max_batch_size: Largest batch.
        clock: Monotonic seconds; the rows' deadlines are on it.
    """

    def __init__(self, max_batch_size: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_batch_size = max_batch_size
        self._clock = clock
        self._condition = threading.Condition()
        self._queues: dict[BatchKey, FairQueue[Row]] = defaultdict(FairQueue[Row])
        self._level = 0.0
        self._closed = False

    def submit(self, rows: list[Row]) -> bool:
        """Queue rows; False once the batcher is closed."""
        with self._condition:
            if self._closed:
                return False
            for row in rows:
                self._queues[row.batch_key].push(row, row.entry.digest, self._level)
            self._condition.notify()
            return True

    def next_batch(self) -> Batch | None:
        """Wait for rows and return as many as fit, at once; None when closed and empty."""
        with self._condition:
            while True:
                batch = self._take()
                if batch.rows or batch.late:
                    return batch
                self._queues.clear()  # nothing waits: forget who was served how often
                self._level = 0.0
                if self._closed:
                    return None
                self._condition.wait()

    def close(self) -> None:
        """Refuse new rows; what is queued is still handed out."""
        with self._condition:
            self._closed = True
            self._condition.notify()

    def _take(self) -> Batch:
        """The next rows of the queue whose turn it is, and the late ones met on the way."""
        batch = Batch()
        queue = self._turn()
        if queue is None:
            return batch
        now_s = self._clock()
        while len(batch.rows) < self._max_batch_size and (level := queue.least_served) is not None:
            digest, row = queue.pop()
            if row.deadline_s > now_s:
                self._level = level
                batch.rows.append(row)
            else:
                queue.charge(digest, -1.0)  # it is not going to be served
                batch.late.append(row)
        return batch

    def _turn(self) -> FairQueue[Row] | None:
        """The queue whose next artifact has been served least."""
        waiting = [
            (served, queue)
            for queue in self._queues.values()
            if (served := queue.least_served) is not None
        ]
        return min(waiting, key=lambda pair: pair[0])[1] if waiting else None
