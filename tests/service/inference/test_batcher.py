import queue
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from service.inference.bank import BankEntry
from service.inference.batcher import Batch, Batcher
from service.inference.rows import Row

PIXELS = np.zeros((3, 1, 1), np.uint8)
FOREVER_S = float("inf")


def entry(digest: str, shape: tuple[int, int] = (1, 4)) -> BankEntry:
    prompt = torch.zeros((*shape, 8)) if shape[1] else None
    return BankEntry(digest, ("a", "b"), prompt, torch.zeros(2, 8), torch.zeros(2))


def row(digest: str, shape: tuple[int, int] = (1, 4), *, deadline_s: float = FOREVER_S) -> Row:
    return Row(PIXELS, entry(digest, shape), deadline_s, 0.0, digest)


class NobodyComes(threading.Condition):
    """Of a batcher that only the test's own thread uses: to wait for others is to wait for ever."""

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None, "the batcher waits although there are rows, or it is closed"
        return super().wait(timeout)


def batcher_of(*args: Any, **kwargs: Any) -> Batcher:
    batcher = Batcher(*args, **kwargs)
    batcher._condition = NobodyComes()
    return batcher


def asking(batcher: Batcher) -> Callable[[], Batch | None]:
    """Ask for batches on another thread, which nobody has to wait for if the batcher hangs.

    Returns what gives the next one, or raises `queue.Empty` after 30 s.
    """
    found: queue.SimpleQueue[Batch | None] = queue.SimpleQueue()

    def ask() -> None:
        while True:
            batch = batcher.next_batch()
            found.put(batch)
            if batch is None:
                return

    threading.Thread(target=ask, daemon=True).start()
    return lambda: found.get(timeout=30)


def digests(batch: Batch | None) -> list[str]:
    return [row.entry.digest for row in rows_of(batch)]


def rows_of(batch: Batch | None) -> list[Row]:
    assert batch is not None
    assert not batch.late
    return batch.rows


def test_a_batch_is_filled_up_to_its_size_in_order() -> None:
    batcher = batcher_of(3)
    rows = [row("x") for _ in range(5)]
    assert batcher.submit(rows)
    assert rows_of(batcher.next_batch()) == rows[:3]
    assert rows_of(batcher.next_batch()) == rows[3:]


def test_a_greedy_artifact_does_not_hold_up_the_others() -> None:
    batcher = batcher_of(4)
    batcher.submit([row("greedy") for _ in range(100)])
    assert digests(batcher.next_batch()) == ["greedy"] * 4
    batcher.submit([row("small"), row("other")])
    assert sorted(digests(batcher.next_batch())) == ["greedy", "greedy", "other", "small"]
    batcher.submit([row("small") for _ in range(8)])
    assert digests(batcher.next_batch()).count("small") == 2


def test_idling_earns_no_credit() -> None:
    batcher = batcher_of(2)
    batcher.submit([row("busy") for _ in range(100)])
    for _ in range(20):
        batcher.next_batch()
    batcher.submit([row("late") for _ in range(20)])
    served = [digest for _ in range(8) for digest in digests(batcher.next_batch())]
    assert 7 <= served.count("late") <= 9


def test_batches_do_not_mix_prompt_shapes_and_no_shape_starves() -> None:
    batcher = batcher_of(8)
    batcher.submit([row("a", (1, 4)) for _ in range(20)])
    batcher.submit([row("b", (2, 4)), row("c", (0, 0))])
    batches = [digests(batcher.next_batch()) for _ in range(3)]
    assert all(len(set(batch)) == 1 for batch in batches)
    assert {batch[0] for batch in batches} == {"a", "b", "c"}


def test_artifacts_of_one_shape_share_a_batch() -> None:
    batcher = batcher_of(8)
    batcher.submit([row("a"), row("b"), row("c")])
    assert sorted(digests(batcher.next_batch())) == ["a", "b", "c"]


def test_cancelled_rows_are_skipped_and_not_charged() -> None:
    batcher = batcher_of(2)
    gone = [row("a") for _ in range(10)]
    kept = [row("a"), row("b"), row("a"), row("b")]
    batcher.submit([*gone, *kept])
    for each in gone:
        each.cancelled = True
    taken = [*rows_of(batcher.next_batch()), *rows_of(batcher.next_batch())]
    assert {id(each) for each in taken} == {id(each) for each in kept}


def test_an_idle_engine_gets_a_row_at_once_and_close_ends_it_after_the_last_row() -> None:
    batcher = Batcher(4)
    next_one = asking(batcher)
    batcher.submit([row("a")])
    assert digests(next_one()) == ["a"]
    batcher.submit([row("b")])
    batcher.close()
    assert digests(next_one()) == ["b"]
    assert next_one() is None
    assert not batcher.submit([row("c")])


def test_late_rows_take_no_place_in_the_batch_and_are_not_charged() -> None:
    batcher = batcher_of(4, clock=lambda: 10.0)
    late = [row("a", deadline_s=9.0) for _ in range(3)] + [row("b", deadline_s=10.0)]
    due = [row(digest, deadline_s=11.0) for digest in "aaabbb"]
    batcher.submit([*late, *due])
    first, second = batcher.next_batch(), batcher.next_batch()
    assert first is not None
    assert second is not None
    assert len(first.rows) == 4
    assert {id(each) for each in first.late + second.late} == {id(each) for each in late}
    assert {id(each) for each in first.rows + second.rows} == {id(each) for each in due}
    assert sorted(each.entry.digest for each in first.rows) == ["a", "a", "b", "b"]


def test_late_rows_are_handed_out_when_there_is_nothing_else() -> None:
    batcher = batcher_of(4, clock=lambda: 10.0)
    late = row("a", deadline_s=1.0)
    batcher.submit([late])
    batch = batcher.next_batch()
    assert batch is not None
    assert (batch.rows, batch.late) == ([], [late])
    batcher.close()
    assert batcher.next_batch() is None


def test_a_batch_at_the_boundary_is_shared_evenly() -> None:
    """Three artifacts and a batch of four: whoever got the odd row waits longest for the next."""
    batcher = batcher_of(4)
    batcher.submit([row(digest) for digest in "abc" for _ in range(12)])
    served: Counter[str] = Counter()
    for _ in range(9):
        served.update(digests(batcher.next_batch()))
        assert max(served.values()) - min(served[each] for each in "abc") <= 1
    assert served == {"a": 12, "b": 12, "c": 12}


def test_prompt_shapes_share_the_engine_by_rows_served() -> None:
    batcher = batcher_of(4)
    batcher.submit([row("a", (1, 4)) for _ in range(40)] + [row("b", (2, 4)) for _ in range(40)])
    served = Counter(digest for _ in range(10) for digest in digests(batcher.next_batch()))
    assert served == {"a": 20, "b": 20}


def test_an_ensemble_gets_no_larger_share_by_its_versions() -> None:
    batcher = batcher_of(8, crowded_batch_size=2)
    batcher.submit([replace(row(f"a{n % 9}"), tenant="a") for n in range(180)])
    batcher.submit([replace(row("b"), tenant="b") for _ in range(20)])
    first = rows_of(batcher.next_batch())
    assert len(first) == 2  # as nine tenants they would not crowd b out
    served = Counter(each.tenant for each in first)
    while sum(served.values()) < 40:
        served.update(each.tenant for each in rows_of(batcher.next_batch()))
    assert abs(served["a"] - served["b"]) <= 2


def test_an_ensemble_gets_no_larger_share_by_the_length_of_its_prompt() -> None:
    def tokens(row: Row) -> float:
        return row.entry.prompt_shape[1]

    batcher = batcher_of(4, cost=tokens)
    batcher.submit([row("long", (1, 40)) for _ in range(100)])
    batcher.submit([row("short", (1, 4)) for _ in range(100)])
    served = Counter(digest for _ in range(22) for digest in digests(batcher.next_batch()))
    assert served["short"] == pytest.approx(10 * served["long"], rel=0.1)


def floats(digest: str) -> Row:
    return replace(row(digest), pixels=PIXELS.astype(np.float32))


def test_an_artifact_has_one_account_whatever_kind_of_pixels_it_is_sent() -> None:
    batcher = batcher_of(4)
    batcher.submit([make("both") for _ in range(40) for make in (row, floats)])
    batcher.submit([row("one") for _ in range(40)])
    served = Counter(digest for _ in range(16) for digest in digests(batcher.next_batch()))
    assert abs(served["both"] - served["one"]) <= 4
    served.update(digest for _ in range(14) for digest in digests(batcher.next_batch()))
    assert served == {"both": 80, "one": 40}


def test_one_that_waits_with_one_kind_of_pixels_loses_nothing_by_sending_the_other() -> None:
    batcher = batcher_of(8)
    batcher.submit([floats("one") for _ in range(200)])
    batcher.submit([row("both") for _ in range(200)])
    served: Counter[str] = Counter()
    for _ in range(20):
        batch = digests(batcher.next_batch())
        served.update(batch)
        if batch[0] == "one":  # for the moment it is ahead
            batcher.submit([floats("both")])
    assert abs(served["both"] - served["one"]) <= 8


def test_what_was_served_is_forgotten_when_nothing_waits() -> None:
    batcher = Batcher(4)
    batcher.submit([floats("a") for _ in range(20)])
    for _ in range(5):
        assert digests(batcher.next_batch()) == ["a"] * 4
    next_one = asking(batcher)
    until_s = time.monotonic() + 30
    while batcher._level:  # it has not found the queue empty yet
        assert time.monotonic() < until_s
        time.sleep(0.01)
    batcher.submit([row("a") for _ in range(8)] + [floats("b") for _ in range(8)])
    served = Counter(digests(next_one()) + digests(next_one()))
    batcher.close()
    assert served == {"a": 4, "b": 4}


def sizes(batcher: Batcher, num_batches: int) -> list[int]:
    return [len(rows_of(batcher.next_batch())) for _ in range(num_batches)]


def test_batches_are_short_while_a_greedy_artifact_crowds_out_another() -> None:
    now_s = [0.0]
    batcher = batcher_of(8, crowded_batch_size=2, clock=lambda: now_s[0])
    batcher.submit([row("greedy") for _ in range(100)])
    assert sizes(batcher, 2) == [8, 8]
    batcher.submit([row("modest")])
    assert sorted(digests(batcher.next_batch())) == ["greedy", "modest"]
    assert sizes(batcher, 2) == [2, 2]
    now_s[0] += 11.0  # it does not seem to come back
    assert sizes(batcher, 2) == [8, 8]


def test_batches_are_full_where_nobody_crowds_out_anybody() -> None:
    batcher = batcher_of(8, crowded_batch_size=2)
    batcher.submit([row(digest) for digest in "abcd" for _ in range(10)])
    assert sizes(batcher, 5) == [8] * 5


def test_a_crowded_batch_is_no_larger_than_another() -> None:
    batcher = batcher_of(3, crowded_batch_size=4)
    batcher.submit([row("greedy") for _ in range(50)] + [row("modest")])
    assert sizes(batcher, 2) == [3, 3]


def test_rows_are_compared_by_identity() -> None:
    first = row("a")
    assert first != replace(first)
