"""A host that is told to stop in the middle of something."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.store_keys import outcome_key
from tests.damage import leave_half
from tests.faults.hammer import check_nothing_lost, hammering, wait_until_answered
from tests.service.processes.running_host import Host
from tests.service_process import eventually

Serve = Callable[..., Host]
Publish = Callable[..., Any]
Image = Callable[..., bytes]


def hang(path: Path) -> None:
    """Have whoever reads a file wait for ever, as on a network volume whose server is gone."""
    path.unlink()
    os.mkfifo(path)


def artifact_in(store: Path, digest: str) -> Path:
    (found,) = store.glob(f"sha256/*/{digest.removeprefix('sha256:')}")
    return found


@pytest.mark.parametrize("order", ["front engine supervisor", "engine supervisor front"])
def test_sigterm_to_every_process_loses_no_request(
    serve: Serve, publish: Publish, image: Image, order: str
) -> None:
    """As systemd does it to a control group, and whoever ends processes by their name."""
    publish("zoo", seed=1)
    host = serve(drain_s=1.5)
    host.wait_until_ready()
    pids = {program: host.pids(program) for program in ("front", "engine")}
    pids["supervisor"] = [host.process.pid]
    with hammering(host.url, image(), 8) as results:
        wait_until_answered(results)
        for program in order.split():
            for pid in pids[program]:
                os.kill(pid, signal.SIGTERM)
            time.sleep(0.1)  # or one signal would stand for both
        assert host.process.wait(60) == 0
    check_nothing_lost(results, 8)
    assert results.keys() == {"200", "refused"}
    assert host.log.count(" exited with 0") == 3


def test_a_second_signal_cuts_the_drain_short(serve: Serve) -> None:
    host = serve(drain_s=300)
    host.wait_until_ready()
    for _ in range(2):
        host.process.send_signal(signal.SIGTERM)
        eventually(lambda: not host.is_ready())
    assert host.process.wait(60) == 0
    assert host.log.count(" exited with 0") == 3


def test_fronts_and_engine_leave_although_the_store_hangs(
    serve: Serve, publish: Publish, image: Image, tmp_path: Path
) -> None:
    """A front waits for what a name means, the engine for what it means."""
    unknown, _ = publish("unknown", seed=1)
    _, digest = publish("unread", seed=2)
    host = serve(drain_s=0.1, request_deadline_s=1.0, warm_up=False)
    host.wait_until_ready()
    store = tmp_path / "store"
    for path in (store / outcome_key(unknown), artifact_in(store, digest)):
        hang(path)
    for name in ("unknown", "unread"):
        answer = host.http.post(f"{host.url}/v1/ensembles/{name}/classify", content=image())
        assert answer.status_code == 504
    host.process.send_signal(signal.SIGTERM)
    assert host.process.wait(60) == 0
    assert host.log.count(" exited with 0") == 3
    assert "left although threads hang" in host.log


@pytest.mark.parametrize("front_processes", [0, 2])
def test_a_service_that_is_still_starting_leaves_at_once(
    serve: Serve, publish: Publish, tmp_path: Path, front_processes: int
) -> None:
    """It reads what there is to warm up for, and does not get it."""
    _, damaged = publish("a", seed=1)
    _, unread = publish("b", seed=2)
    leave_half(artifact_in(tmp_path / "store", damaged))
    hang(artifact_in(tmp_path / "store", unread))
    host = serve(front_processes=front_processes, shutdown_grace_s=300)
    eventually(lambda: "a prompt shape to warm up with is not known" in host.log)
    host.process.send_signal(signal.SIGTERM)
    assert host.process.wait(60) == 0
