"""Which rows go into the next forward pass.

Rows of one batch share their `batch_key`, so each key has its own `FairQueue`. Within and
between those, the ensemble that has been served least goes first: all its versions, and its rows
under several keys, have one account. A row with many prompt tokens counts for more. Several streams
may compute at once; `Streams` says how much each takes, `Crowding` when a batch should be short,
and `Linger` when one waits for clients that are about to come back.
"""

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from service.inference.crowding import Crowding
from service.inference.fair_queue import FairQueue
from service.inference.linger import Linger
from service.inference.rows import BatchKey, Row
from service.inference.streams import (
    FIRST_STREAM,
    UNTIL_CALLED,
    CoreStreams,
    Later,
    Streams,
    Waiting,
)


@dataclass
class Batch:
    """What the engine has to do next.

    Attributes:
        rows: For one forward pass; none of them is late or cancelled.
        late: Their deadline passed in the queue; they took no room in `rows`.
        exclusive: Whether no other batch is handed out before the next one is asked for.
    """

    rows: list[Row] = field(default_factory=list)
    late: list[Row] = field(default_factory=list)
    exclusive: bool = False


class Batcher:
    """The queue between the requests and the engine's threads. Thread-safe.

    It never refuses a row: `admission` bounds how many there are.

    Args:
        max_batch_size: Largest batch.
        crowded_batch_size: Largest batch while one ensemble crowds out others; None for no other.
        streams: The threads that ask for batches, and how they take turns; one if None.
        cost: What computing a row counts for.
        clock: Monotonic seconds; the rows' deadlines are on it.
    """

    def __init__(
        self,
        max_batch_size: int,
        *,
        crowded_batch_size: int | None = None,
        streams: Streams | None = None,
        cost: Callable[[Row], float] = lambda _row: 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_batch_size = max_batch_size
        self._crowded_batch_size = min(max_batch_size, crowded_batch_size or max_batch_size)
        self._crowding = Crowding(clock)
        self._streams = CoreStreams(1) if streams is None else streams
        self._cost = cost
        self._clock = clock
        self._condition = threading.Condition()
        self._served: dict[str, float] = {}  # cost of the rows, by tenant
        self._queues: dict[BatchKey, FairQueue[Row]] = defaultdict(
            lambda: FairQueue[Row](self._served)
        )
        self._level = 0.0
        self._given: dict[int, tuple[int, float]] = {}  # rows and when, by stream
        self._missing: dict[int, int] = {}  # rows that are to come before a stream looks again
        self._closed = False

    def submit(self, rows: list[Row]) -> bool:
        """Queue rows; False once the batcher is closed."""
        with self._condition:
            if self._closed:
                return False
            for row in rows:
                tenant = row.tenant
                self._crowding.asked(tenant)
                waits = any(queue.has(tenant) for queue in self._queues.values())
                self._queues[row.batch_key].push(row, tenant, 0.0 if waits else self._level)
            for stream in self._missing:
                self._missing[stream] -= len(rows)
            if any(missing <= 0 for missing in self._missing.values()):
                self._condition.notify_all()
            return True

    def next_batch(self, stream: int = FIRST_STREAM) -> Batch | None:
        """Wait for rows and return what there is; None when closed and empty.

        Args:
            stream: Who asks: from 0 up to the number of streams. By asking it says that what it
                was given before is done.
        """
        with self._condition:
            if self._streams.release(stream):
                self._condition.notify_all()
            linger = self._linger_after(stream)
            came_to_idle = False
            while True:
                waiting = sum((queue.waiting() for queue in self._queues.values()), Counter[str]())
                later = UNTIL_CALLED
                if waiting:
                    more_s = linger.wait_s(waiting.total(), self._clock()) if linger else 0.0
                    if more_s > 0.0 and not self._closed:
                        if not self._wait(stream, Later(more_s, 1)):
                            linger = None  # nobody came
                        continue
                    found = self._batch_for(stream, waiting, came_to_idle=came_to_idle)
                    if isinstance(found, Batch):
                        return found
                    later = found
                else:
                    came_to_idle = True
                    self._queues.clear()  # nothing waits: forget who was served how often
                    self._served.clear()
                    self._level = 0.0
                    if self._closed:
                        self._condition.notify_all()  # of the streams that wait it is the end too
                        return None
                self._wait(stream, later)

    def computed(self, stream: int, *, failed: bool) -> None:
        """Say that the results of a stream's batch are there, before they are handed out.

        Args:
            stream: Whose.
            failed: Whether the pass failed, so that how long it took says nothing.
        """
        with self._condition:
            if self._streams.computed(stream, self._clock(), failed=failed):
                self._condition.notify_all()

    def close(self) -> None:
        """Refuse new rows; what is queued is still handed out."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()

    def _wait(self, stream: int, later: Later) -> bool:
        """Wait until it is time to look again; False if nothing has happened until then."""
        self._missing[stream] = later.more_rows
        try:
            return self._condition.wait(later.seconds)
        finally:
            del self._missing[stream]

    def _batch_for(
        self, stream: int, waiting: Counter[str], *, came_to_idle: bool
    ) -> Batch | Later:
        crowded = self._crowding.crowded(waiting)
        largest = self._crowded_batch_size if crowded else self._max_batch_size
        found = Waiting(waiting.total(), largest, came_to_idle)
        share = self._streams.turn(stream, found, self._clock())
        if isinstance(share, Later):
            return share
        batch = self._take(min(share.max_rows, largest))
        batch.exclusive = share.exclusive
        now_s = self._clock()
        self._streams.start(stream, share, len(batch.rows), now_s)
        self._given[stream] = len(batch.rows), now_s
        if waiting.total() > len(batch.rows) and not batch.exclusive:
            self._condition.notify_all()  # a stream that left them to this one may take them now
        return batch

    def _linger_after(self, stream: int) -> Linger | None:
        """For the batch that a stream was given before; None if it was given none."""
        if not self._streams.lingers or stream not in self._given:
            return None
        num_rows, given_s = self._given.pop(stream)
        now_s = self._clock()
        return Linger(num_rows, now_s - given_s, now_s)

    def _take(self, max_rows: int) -> Batch:
        """The next rows of the queue whose turn it is, and the late ones met on the way."""
        batch = Batch()
        queue = self._turn()
        if queue is None:
            return batch
        now_s = self._clock()
        while len(batch.rows) < max_rows and (level := queue.least_served) is not None:
            tenant, row = queue.pop(cost=0.0)
            if row.deadline_s > now_s:
                queue.charge(tenant, self._cost(row))
                self._level = level
                batch.rows.append(row)
            else:
                batch.late.append(row)
        return batch

    def _turn(self) -> FairQueue[Row] | None:
        """The queue whose next ensemble has been served least."""
        waiting = [
            (served, queue)
            for queue in self._queues.values()
            if (served := queue.least_served) is not None
        ]
        return min(waiting, key=lambda pair: pair[0])[1] if waiting else None
