"""How a GPU gets its next batch; on a GPU itself, `test_engine_gpu` does it for real."""

import pytest

from service.inference.batcher import Batcher
from service.inference.gpu_streams import GpuStreams
from service.inference.streams import Later, Share, Waiting
from tests.service.inference.test_batcher import digests, row
from tests.service.inference.test_streams import two_streams

PASS_S = 0.010


def waiting(num_rows: int, largest: int = 32) -> Waiting:
    return Waiting(num_rows, largest, came_to_idle=False)


def everything(num_rows: int) -> Share:
    return Share(num_rows, exclusive=False)


def run(streams: GpuStreams, stream: int, *, at_s: float, took_s: float, num_rows: int = 8) -> None:
    """A pass on an idle GPU, from the start to its results."""
    share = streams.turn(stream, waiting(num_rows), at_s)
    assert isinstance(share, Share)
    streams.start(stream, share, num_rows, at_s)
    assert streams.computed(stream, at_s + took_s, failed=False)
    assert not streams.release(stream)


@pytest.fixture
def streams() -> GpuStreams:
    """One that knows how long 8 rows take, and computes 8 since 1.0 s."""
    found = GpuStreams()
    run(found, 0, at_s=0.0, took_s=PASS_S)
    found.start(0, everything(8), 8, 1.0)
    return found


@pytest.mark.parametrize("num_rows", [1, 100])
def test_an_idle_gpu_gets_everything_at_once(num_rows: int) -> None:
    assert GpuStreams().turn(1, waiting(num_rows), 0.0) == everything(num_rows)


def test_the_next_batch_is_chosen_in_the_second_half_of_the_pass(streams: GpuStreams) -> None:
    later = streams.turn(1, waiting(5), 1.0 + 0.2 * PASS_S)
    assert isinstance(later, Later)
    assert later.seconds == pytest.approx(0.3 * PASS_S)
    assert later.more_rows == 32 - 5
    assert streams.turn(1, waiting(6), 1.0 + 0.51 * PASS_S) == everything(6)


def test_a_full_batch_is_chosen_at_once(streams: GpuStreams) -> None:
    assert streams.turn(1, waiting(32), 1.0) == everything(32)
    assert streams.turn(1, waiting(9, largest=8), 1.0) == everything(9)


def test_a_pass_whose_duration_is_not_known_is_not_waited_for() -> None:
    streams = GpuStreams()
    streams.start(0, everything(8), 8, 0.0)
    assert streams.turn(1, waiting(1), 0.0) == everything(1)


def test_a_batch_that_was_queued_behind_another_begins_when_that_has_ended(
    streams: GpuStreams,
) -> None:
    streams.start(1, everything(8), 8, 1.0 + 0.5 * PASS_S)
    assert streams.computed(0, 1.0 + PASS_S, failed=False)
    assert not streams.release(0)
    later = streams.turn(0, waiting(5), 1.0 + PASS_S)
    assert isinstance(later, Later)
    assert later.seconds == pytest.approx(0.5 * PASS_S)


def test_one_slow_pass_changes_the_estimate_little_and_a_fast_one_at_once() -> None:
    streams = GpuStreams()
    for took_s, expected_s in ((5.0, 5.0), (PASS_S, PASS_S), (5.0, PASS_S + 0.1 * (5.0 - PASS_S))):
        run(streams, 0, at_s=0.0, took_s=took_s)
        streams._ended_s = float("-inf")
        streams.start(0, everything(8), 8, 0.0)
        later = streams.turn(1, waiting(1), 0.0)
        assert isinstance(later, Later)
        assert later.seconds == pytest.approx(0.5 * expected_s)
        assert streams.release(0)


def test_a_pass_that_failed_says_nothing_of_how_long_one_takes(streams: GpuStreams) -> None:
    assert streams.computed(0, 1.0, failed=True)
    assert not streams.release(0)
    streams.start(0, everything(8), 8, 2.0)
    later = streams.turn(1, waiting(1), 2.0)
    assert isinstance(later, Later)
    assert later.seconds == pytest.approx(0.5 * PASS_S)


def test_a_batcher_hands_the_next_batch_out_while_one_is_computed() -> None:
    """The first pass is taken for one of an hour: only what the test does lets the second begin."""
    ahead_s = 0.0
    batcher = Batcher(4, streams=GpuStreams(), clock=lambda: ahead_s)
    with two_streams(batcher) as (first, second):
        batcher.submit([row("a"), row("a")])
        first.ask()
        assert digests(first.gets()) == ["a", "a"]
        ahead_s = 3600.0
        batcher.computed(0, failed=False)

        batcher.submit([row("b"), row("b")])
        first.ask()
        assert digests(first.gets()) == ["b", "b"]
        second.ask()
        batcher.submit([row("c"), row("c"), row("c")])
        assert second.gets_nothing()
        batcher.submit([row("c")])
        assert digests(second.gets()) == ["c"] * 4  # as many as fit

        batcher.submit([row("d")])
        second.ask()
        assert second.gets_nothing()
        batcher.computed(0, failed=False)
        assert digests(second.gets()) == ["d"]


def test_rows_that_come_together_fill_a_batch_as_those_that_come_one_by_one() -> None:
    ahead_s = 0.0
    batcher = Batcher(4, streams=GpuStreams(), clock=lambda: ahead_s)
    with two_streams(batcher) as (first, second):
        batcher.submit([row("a"), row("a")])
        first.ask()
        first.gets()
        ahead_s = 3600.0
        batcher.computed(0, failed=False)
        batcher.submit([row("b"), row("b")])
        first.ask()
        first.gets()

        second.ask()
        batcher.submit([row("c")])
        assert second.gets_nothing()
        batcher.submit([row("c"), row("c"), row("c")])
        assert digests(second.gets()) == ["c"] * 4
