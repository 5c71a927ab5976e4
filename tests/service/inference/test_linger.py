import threading
import time

import pytest

from service.inference import linger as linger_module
from service.inference.batcher import Batcher
from service.inference.linger import LIMIT, QUIET, Linger
from tests.service.inference.test_batcher import digests, row

PASS_S = 10.0


@pytest.fixture(autouse=True)
def passes_may_be_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linger_module, "MAX_S", 3600.0)


def test_it_waits_while_rows_keep_coming() -> None:
    linger = Linger(num_rows=8, pass_s=PASS_S, ended_s=100.0)
    assert linger.wait_s(1, 100.1) == pytest.approx(QUIET * PASS_S)
    assert linger.wait_s(1, 100.3) == pytest.approx(QUIET * PASS_S - 0.2)
    assert linger.wait_s(2, 100.4) == pytest.approx(QUIET * PASS_S)
    assert linger.wait_s(2, 100.4 + QUIET * PASS_S) == 0.0


def test_it_waits_for_a_share_of_the_pass_at_most() -> None:
    linger = Linger(num_rows=8, pass_s=PASS_S, ended_s=100.0)
    for number in range(1, 5):
        assert linger.wait_s(number, 100.0 + 0.4 * number) > 0.0
    assert linger.wait_s(6, 100.0 + LIMIT * PASS_S) == 0.0


def test_after_a_very_long_pass_it_waits_no_longer_than_after_a_long_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(linger_module, "MAX_S", 0.05)
    linger = Linger(num_rows=8, pass_s=3600.0, ended_s=100.0)
    assert linger.wait_s(1, 100.0) == pytest.approx(0.05)
    assert linger.wait_s(2, 100.06) == 0.0


@pytest.mark.parametrize(("num_rows", "num_waiting"), [(1, 1), (8, 8), (8, 20), (0, 1)])
def test_it_waits_for_nobody_after_one_row_or_when_as_many_are_back(
    num_rows: int, num_waiting: int
) -> None:
    assert Linger(num_rows, PASS_S, 100.0).wait_s(num_waiting, 100.0) == 0.0


def after_a_pass(num_rows: int) -> Batcher:
    """A batcher whose stream had so many rows, and took an hour for them."""
    ahead_s = 0.0
    batcher = Batcher(8, clock=lambda: time.monotonic() + ahead_s)
    batcher.submit([row("before") for _ in range(num_rows)])
    assert digests(batcher.next_batch()) == ["before"] * num_rows
    ahead_s = 3600.0
    return batcher


def test_clients_that_come_back_share_a_batch() -> None:
    batcher = after_a_pass(3)
    batcher.submit([row("first")])
    later = [threading.Timer(0.05 * n, batcher.submit, [[row("later")]]) for n in (1, 2)]
    for each in later:
        each.start()
    assert digests(batcher.next_batch()) == ["first", "later", "later"]


def test_a_lone_client_waits_for_nobody() -> None:
    batcher = after_a_pass(1)
    batcher.submit([row("again")])
    began_s = time.monotonic()
    assert digests(batcher.next_batch()) == ["again"]
    assert time.monotonic() - began_s < QUIET * 3600.0


def test_the_end_is_not_waited_out() -> None:
    batcher = after_a_pass(3)
    batcher.submit([row("last")])
    threading.Timer(0.05, batcher.close).start()
    began_s = time.monotonic()
    assert digests(batcher.next_batch()) == ["last"]
    assert batcher.next_batch() is None
    assert time.monotonic() - began_s < QUIET * 3600.0
