import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.alone import turn

HELD_S = 0.1


@pytest.fixture(autouse=True)
def run_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_XDIST_TESTRUNUID", uuid.uuid4().hex)


def test_one_that_is_alone_runs_beside_nobody() -> None:
    lock = threading.Lock()
    running: list[bool] = []
    seen: list[list[bool]] = []

    def one(alone: bool) -> None:
        with turn(alone=alone):
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


def test_one_that_waits_to_be_alone_is_overtaken_by_nobody() -> None:
    order: list[str] = []
    first = threading.Event()

    def one(name: str, alone: bool) -> None:
        with turn(alone=alone):
            order.append(name)
            first.set()
            time.sleep(HELD_S)

    with ThreadPoolExecutor(3) as pool:
        pool.submit(one, "first", alone=False)
        assert first.wait(10)
        pool.submit(one, "alone", alone=True)
        time.sleep(HELD_S / 2)
        pool.submit(one, "late", alone=False)
    assert order == ["first", "alone", "late"]


def test_without_other_processes_nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTEST_XDIST_TESTRUNUID")
    with turn(alone=True), turn(alone=True):
        pass
