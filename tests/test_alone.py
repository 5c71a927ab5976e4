import fcntl
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests import alone
from tests.alone import turn

HELD_S = 0.1


def test_one_that_is_alone_runs_beside_nobody(tmp_path: Path) -> None:
    lock = threading.Lock()
    running: list[bool] = []
    seen: list[list[bool]] = []

    def one(alone: bool) -> None:
        with turn(tmp_path, alone=alone):
            with lock:
                running.append(alone)
                seen.append(list(running))
            time.sleep(HELD_S)
            with lock:
                running.remove(alone)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, [False, False, True, False, False, True, False, False]))
    assert all(beside == [True] for beside in seen if True in beside)
    assert sum(beside == [True] for beside in seen) == 2
    assert max(map(len, seen)) > 1  # the others ran beside one another


def test_one_that_waits_to_be_alone_is_overtaken_by_nobody(tmp_path: Path) -> None:
    order: list[str] = []
    first, end_of_first = threading.Event(), threading.Event()

    def one(name: str, alone: bool, began: threading.Event, end: threading.Event) -> None:
        with turn(tmp_path, alone=alone):
            order.append(name)
            began.set()
            assert end.wait(30)

    def somebody_is_next() -> bool:
        with (tmp_path / "next").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    ended = threading.Event()
    ended.set()
    with ThreadPoolExecutor(3) as pool:
        calls = [pool.submit(one, "first", alone=False, began=first, end=end_of_first)]
        assert first.wait(30)
        calls.append(pool.submit(one, "alone", alone=True, began=threading.Event(), end=ended))
        while not somebody_is_next():
            time.sleep(0.01)
        calls.append(pool.submit(one, "late", alone=False, began=threading.Event(), end=ended))
        time.sleep(HELD_S)
        assert order == ["first"]
        end_of_first.set()
        for call in calls:
            call.result(30)
    assert order == ["first", "alone", "late"]


def test_a_turn_that_never_comes_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alone, "LIMIT_S", 0.05)
    with (
        turn(tmp_path, alone=False),
        pytest.raises(TimeoutError, match=r"no turn within 0\.05 s"),
        turn(tmp_path, alone=True),
    ):
        pass
