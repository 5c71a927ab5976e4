"""Which rows go into the next forward pass.

Rows of one batch share their `batch_key`, so each key has its own `FairQueue`. Within and
between those, the artifact that has been served least goes first, so that one busy ensemble
cannot keep the others waiting. An artifact that comes back after a pause starts level with the
one served last: idling earns no credit.
"""

import heapq
import threading
from collections import defaultdict, deque
from itertools import count

from service.inference.rows import BatchKey, Row


class FairQueue:
    """Rows of one batch key, first in first out within each artifact."""

    def __init__(self) -> None:
        self._rows: dict[str, deque[Row]] = {}
        self._served: dict[str, int] = {}
        self._heap: list[tuple[int, int, str]] = []  # (served, tie breaker, digest)
        self._ties = count()

    def push(self, row: Row, level: int) -> None:
        """Queue a row; an artifact new to the queue starts at `level` rows served."""
        digest = row.entry.digest
        rows = self._rows.setdefault(digest, deque())
        if not rows:
            self._served[digest] = max(self._served.get(digest, 0), level)
            heapq.heappush(self._heap, (self._served[digest], next(self._ties), digest))
        rows.append(row)

    @property
    def least_served(self) -> int | None:
        """Rows served to the artifact whose turn it is; None when nothing waits."""
        self._drop_cancelled()
        return self._heap[0][0] if self._heap else None

    def pop(self) -> Row:
        """Take the next row, right after `least_served` said that there is one."""
        served, _, digest = heapq.heappop(self._heap)
        row = self._rows[digest].popleft()
        self._served[digest] = served + 1
        if self._rows[digest]:
            heapq.heappush(self._heap, (served + 1, next(self._ties), digest))
        return row

    def _drop_cancelled(self) -> None:
        """Remove cancelled rows from the artifact whose turn it is, uncharged."""
        while self._heap:
            digest = self._heap[0][2]
            rows = self._rows[digest]
            while rows and rows[0].cancelled:
                rows.popleft()
            if rows:
                return
            heapq.heappop(self._heap)


class Batcher:
    """The queue between the requests and the engine thread. Thread-safe.

    It never refuses a row: `admission` bounds how many there are.

    Args:
        max_batch_size: Largest batch.
    """

    def __init__(self, max_batch_size: int) -> None:
        self._max_batch_size = max_batch_size
        self._condition = threading.Condition()
        self._queues: dict[BatchKey, FairQueue] = defaultdict(FairQueue)
        self._level = 0
        self._closed = False

    def submit(self, rows: list[Row]) -> bool:
        """Queue rows; False once the batcher is closed."""
        with self._condition:
            if self._closed:
                return False
            for row in rows:
                self._queues[row.batch_key].push(row, self._level)
            self._condition.notify()
            return True

    def next_batch(self) -> list[Row] | None:
        """Wait for rows and return as many as fit, at once; None when closed and empty."""
        with self._condition:
            while (queue := self._turn()) is None:
                self._queues.clear()  # nothing waits: forget who was served how often
                self._level = 0
                if self._closed:
                    return None
                self._condition.wait()
            batch: list[Row] = []
            while len(batch) < self._max_batch_size and (level := queue.least_served) is not None:
                self._level = level
                batch.append(queue.pop())
            return batch

    def close(self) -> None:
        """Refuse new rows; what is queued is still handed out."""
        with self._condition:
            self._closed = True
            self._condition.notify()

    def _turn(self) -> FairQueue | None:
        """The queue whose next artifact has been served least."""
        waiting = [
            (served, queue)
            for queue in self._queues.values()
            if (served := queue.least_served) is not None
        ]
        return min(waiting, key=lambda pair: pair[0])[1] if waiting else None
