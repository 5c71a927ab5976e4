"""How streams share the cores; what a batcher hands out to them."""

import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from service.inference.batcher import Batch, Batcher
from service.inference.streams import UNTIL_CALLED, CoreStreams, Share, Waiting
from tests.service.inference.test_batcher import row

IDLE_S = 0.2
"""Long enough for a thread that may go on to do so."""


class Stream:
    """A thread that asks for a batch each time it is told to."""

    def __init__(self, batcher: Batcher, number: int) -> None:
        self._batcher = batcher
        self._number = number
        self._go = threading.Semaphore(0)
        self.batches: queue.Queue[Batch | None] = queue.Queue()
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def ask(self) -> None:
        self._go.release()

    def gets(self) -> Batch:
        batch = self.batches.get(timeout=10)
        assert batch is not None
        return batch

    def gets_nothing(self) -> bool:
        try:
            self.batches.get(timeout=IDLE_S)
        except queue.Empty:
            return True
        return False

    def _run(self) -> None:
        while True:
            self._go.acquire()
            batch = self._batcher.next_batch(self._number)
            self.batches.put(batch)
            if batch is None:
                return


@contextmanager
def two_streams(batcher: Batcher) -> Iterator[tuple[Stream, Stream]]:
    with streams_of(batcher, 2) as (first, second):
        yield first, second


@contextmanager
def streams_of(batcher: Batcher, num_streams: int) -> Iterator[list[Stream]]:
    streams = [Stream(batcher, number) for number in range(num_streams)]
    try:
        yield streams
    finally:
        batcher.close()
        for stream in streams:
            while stream.thread.is_alive():
                stream.ask()
                stream.thread.join(0.1)


def compute_alone(batcher: Batcher, first: Stream) -> None:
    """Give a stream a lone row once it waits for one; whether it does cannot be seen."""
    for _ in range(50):
        first.ask()
        time.sleep(0.02)
        batcher.submit([row("a")])
        if first.gets().exclusive:
            return
    pytest.fail("a lone row never had the engine to itself")


def test_a_load_is_divided_between_the_streams() -> None:
    batcher = Batcher(8, streams=CoreStreams(2))
    batcher.submit([row("a") for _ in range(7)])
    first, second = batcher.next_batch(0), batcher.next_batch(1)
    assert first is not None
    assert second is not None
    assert (len(first.rows), len(second.rows)) == (4, 3)
    assert not first.exclusive
    assert not second.exclusive


def test_a_stream_that_is_free_while_the_others_compute_takes_all() -> None:
    batcher = Batcher(8, streams=CoreStreams(3))
    batcher.submit([row("a") for _ in range(3)])
    assert all(batcher.next_batch(each) for each in range(3))
    batcher.submit([row("a") for _ in range(20)])
    batch = batcher.next_batch(2)
    assert batch is not None
    assert len(batch.rows) == 8


def test_a_lone_row_has_an_idle_engine_to_itself_and_those_that_come_later_share_it() -> None:
    batcher = Batcher(8, streams=CoreStreams(2))
    with two_streams(batcher) as (first, second):
        second.ask()
        compute_alone(batcher, first)
        batcher.submit([row("b"), row("c")])
        assert second.gets_nothing()
        first.ask()
        batches = [first.gets(), second.gets()]
        assert [len(batch.rows) for batch in batches] == [1, 1]
        assert not any(batch.exclusive for batch in batches)


def test_a_row_that_waited_for_the_stream_is_not_alone() -> None:
    """There is more to come: whoever was computed before is about to ask again."""
    batcher = Batcher(8, streams=CoreStreams(2))
    batcher.submit([row("a")])
    batch = batcher.next_batch(0)
    assert batch is not None
    assert not batch.exclusive


def test_a_lone_row_beside_a_pass_is_computed_at_once_by_whoever_is_free() -> None:
    batcher = Batcher(8, streams=CoreStreams(2))
    with two_streams(batcher) as (first, second):
        batcher.submit([row("a"), row("b")])
        first.ask()
        assert len(first.gets().rows) == 1
        second.ask()
        assert len(second.gets().rows) == 1
        second.ask()
        batcher.submit([row("c")])
        assert not second.gets().exclusive


def test_close_ends_the_streams_that_wait_for_one_that_computes_alone() -> None:
    batcher = Batcher(8, streams=CoreStreams(2))
    with two_streams(batcher) as (first, second):
        second.ask()
        compute_alone(batcher, first)
        batcher.submit([row("b")])
        batcher.close()
        assert second.gets_nothing()
        first.ask()
        assert [len(first.gets().rows)] == [1]
        first.ask()
        assert first.batches.get(timeout=10) is None
        assert second.batches.get(timeout=10) is None


def test_close_ends_the_streams_that_left_the_last_row_to_the_first() -> None:
    batcher = Batcher(8, streams=CoreStreams(2))
    with two_streams(batcher) as (first, second):
        batcher.submit([row("a")])
        second.ask()
        assert second.gets_nothing()
        batcher.close()
        assert second.gets_nothing()
        first.ask()
        assert len(first.gets().rows) == 1
        first.ask()
        assert first.batches.get(timeout=10) is None
        assert second.batches.get(timeout=10) is None


@pytest.mark.parametrize("num_waiting", [1, 5, 100])
def test_one_stream_takes_everything_and_shares_nothing(num_waiting: int) -> None:
    waiting = Waiting(num_waiting, largest=8, came_to_idle=True)
    assert CoreStreams(1).turn(0, waiting, 0.0) == Share(num_waiting, exclusive=False)


def test_the_other_streams_leave_a_lone_batch_to_the_first() -> None:
    """Only one thread may have helpers, or all helpers are put to sleep."""
    streams = CoreStreams(4)
    three, four = (Waiting(number, largest=8, came_to_idle=True) for number in (3, 4))
    assert streams.turn(2, three, 0.0) == UNTIL_CALLED
    assert streams.turn(0, three, 0.0) == Share(3, exclusive=True)
    assert streams.turn(2, four, 0.0) == Share(1, exclusive=False)


def test_a_stream_that_is_free_does_not_end_the_turn_of_one_that_computes_alone() -> None:
    streams, one = CoreStreams(2), Waiting(1, largest=8, came_to_idle=True)
    share = streams.turn(0, one, 0.0)
    assert share == Share(1, exclusive=True)
    streams.start(0, share, 1, 0.0)
    assert not streams.release(1)
    assert streams.turn(1, one, 0.0) == UNTIL_CALLED
    assert streams.release(0)
    two = Waiting(2, largest=8, came_to_idle=True)
    assert streams.turn(1, two, 0.0) == Share(1, exclusive=False)


def test_rows_that_the_first_stream_leaves_are_taken_by_one_that_left_them_to_it() -> None:
    batcher = Batcher(8, streams=CoreStreams(4))
    with streams_of(batcher, 4) as (first, *others):
        for each in (first, *others):
            each.ask()
        time.sleep(IDLE_S)
        batcher.submit([row("a") for _ in range(3)])
        assert first.gets().exclusive
        time.sleep(IDLE_S)
        batcher.submit([row("a"), row("a")])
        first.ask()  # it waits a little for a third; the others see fewer rows than cores
        assert len(first.gets().rows) == 1
        deadline_s = time.monotonic() + 10
        while not (taken := [each.batches.get() for each in others if each.batches.qsize()]):
            assert time.monotonic() < deadline_s, "a row waits beside three idle streams"
            time.sleep(0.01)
        assert [len(batch.rows) for batch in taken if batch is not None] == [1]
