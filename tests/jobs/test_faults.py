"""The promises of `docs/dispatch.md`, each against a real Valkey and real worker processes."""

import asyncio
import signal
import threading
import time
from collections.abc import Callable

import pytest

from jobs.errors import FitEndedError, QueueUnavailableError
from jobs.records import FitId, FitSpec
from jobs.redis_keys import DOCKET_NAME, SWEEP_KEY, beat_key
from tests.jobs.conftest import Deployment, MakeSpec, Worker, until

pytestmark = pytest.mark.alone

SLACK_S = 2.0  # two shared cores: what a busy machine may add to any time measured here


def submit(deployment: Deployment, *specs: FitSpec) -> list[FitId]:
    """Submit through a desk that is gone afterwards, so only workers sweep."""

    async def all_of_them() -> list[FitId]:
        async with deployment.desk() as desk:
            return [(await desk.submit(spec)).fit_id for spec in specs]

    return asyncio.run(all_of_them())


def cancel(deployment: Deployment, fit_id: FitId) -> None:
    async def once() -> None:
        async with deployment.desk() as desk:
            await desk.cancel(fit_id)

    asyncio.run(once())


def ends(deployment: Deployment, fit_id: FitId, timeout_s: float = 15.0) -> str:
    return until(lambda: deployment.status(fit_id), timeout_s) or ""


def submit_to_two_workers(deployment: Deployment, spec: FitSpec) -> FitId:
    """One is left when the one that runs the fit is killed or frozen."""
    deployment.worker()
    deployment.worker()
    (fit_id,) = submit(deployment, spec)
    return fit_id


def published_attempt(deployment: Deployment, fit_id: FitId) -> int:
    outcome = deployment.store.outcome(fit_id)
    assert outcome is not None
    return outcome.attempt


def holder(deployment: Deployment, fit_id: FitId) -> Worker:
    pid = deployment.begun(fit_id).pid
    return next(worker for worker in deployment.workers if worker.pid == pid)


def test_fits_that_were_queued_survive_the_loss_of_everything_in_redis(
    deployment: Deployment, make_spec: MakeSpec
) -> None:
    fits = submit(deployment, make_spec("quick-a"), make_spec("quick-b"))
    deployment.flush_redis()
    deployment.worker()
    assert [ends(deployment, fit) for fit in fits] == ["succeeded", "succeeded"]
    assert [len(deployment.runs("begin", fit)) for fit in fits] == [1, 1]


def test_a_fit_that_is_running_survives_the_loss_of_everything_in_redis(
    deployment: Deployment, make_spec: MakeSpec
) -> None:
    fit = submit_to_two_workers(deployment, make_spec("slow", 2500))
    deployment.begun(fit)
    deployment.flush_redis()
    assert ends(deployment, fit) == "succeeded"
    assert published_attempt(deployment, fit) == 1
    (after,) = submit(deployment, make_spec("quick"))
    assert ends(deployment, after) == "succeeded"
    assert len(deployment.runs("begin", fit)) == 1


def test_a_fit_whose_worker_is_killed_runs_again_soon(
    deployment: Deployment, make_spec: MakeSpec
) -> None:
    fit = submit_to_two_workers(deployment, make_spec("slow", 1500))
    holder(deployment, fit).send(signal.SIGKILL)
    killed_at = time.time()
    again = deployment.begun(fit, times=2)
    settings = deployment.settings
    bound_s = 1.25 * settings.lease_s + settings.sweep_interval_s
    assert again.at_unix_s - killed_at < bound_s + SLACK_S
    assert again.attempt == 2
    assert ends(deployment, fit) == "succeeded"
    assert published_attempt(deployment, fit) == 2
    assert len(deployment.runs("begin", fit)) == 2


def test_a_fit_whose_worker_is_killed_runs_again_although_the_clock_of_redis_is_set_back(
    deployment: Deployment, make_spec: MakeSpec
) -> None:
    fit = submit_to_two_workers(deployment, make_spec("slow", 1500))
    holder(deployment, fit).send(signal.SIGKILL)
    with deployment.redis() as redis:  # what was written before then lasts an hour longer
        assert redis.pexpire(beat_key(fit), 3_600_000)
        redis.set(SWEEP_KEY, "whoever swept last", px=3_600_000)
    assert ends(deployment, fit) == "succeeded"
    assert len(deployment.runs("begin", fit)) == 2


def test_a_worker_frozen_past_its_lease_cannot_publish(
    deployment: Deployment, make_spec: MakeSpec
) -> None:
    fit = submit_to_two_workers(deployment, make_spec("deaf", 1500))
    frozen = holder(deployment, fit)
    frozen.send(signal.SIGSTOP)
    deployment.begun(fit, times=2)
    frozen.send(signal.SIGCONT)  # its 1.5 s are over, so it finishes while the other one runs
    until(lambda: "late finish refused" in frozen.log.read_text())
    assert f"attempt 1 of {fit} was overtaken by attempt 2" in frozen.log.read_text()
    assert deployment.status(fit) is None
    assert ends(deployment, fit) == "succeeded"
    assert published_attempt(deployment, fit) == 2
    (after,) = submit(deployment, make_spec("quick"))
    assert ends(deployment, after) == "succeeded"


def test_a_fit_that_kills_its_workers_is_declared_dead_and_others_run(
    deploy: Callable[..., Deployment], make_spec: MakeSpec
) -> None:
    deployment = deploy(max_attempts=2)
    poison, quick = submit(deployment, make_spec("poison"), make_spec("quick"))
    closing = threading.Event()

    def supervise() -> None:
        worker = deployment.worker()
        while not closing.wait(0.05):
            if worker.has_exited():
                worker = deployment.worker()

    supervisor = threading.Thread(target=supervise)
    supervisor.start()
    try:
        assert ends(deployment, poison) == "dead"
        assert ends(deployment, quick) == "succeeded"
    finally:
        closing.set()
        supervisor.join()
    outcome = deployment.store.outcome(poison)
    assert outcome is not None
    assert outcome.error is not None
    assert "2 attempts were lost" in outcome.error.detail
    assert len(deployment.runs("begin", poison)) == 2


def test_workers_outlive_redis(deployment: Deployment, make_spec: MakeSpec) -> None:
    busy, idle = deployment.worker(), deployment.worker()
    (running,) = submit(deployment, make_spec("slow", 2000))
    deployment.begun(running)
    deployment.kill_redis()
    time.sleep(2.5)  # longer than a lease, and the fit ends meanwhile
    deployment.restart_redis()
    (after,) = submit(deployment, make_spec("quick"))
    assert [ends(deployment, fit) for fit in (running, after)] == ["succeeded", "succeeded"]
    assert [len(deployment.runs("begin", fit)) for fit in (running, after)] == [1, 1]
    assert [worker.has_exited() for worker in (busy, idle)] == [False, False]


def test_duplicates_of_a_fit_run_once(deployment: Deployment, make_spec: MakeSpec) -> None:
    (fit,) = submit(deployment, make_spec("slow", 500))

    async def again() -> int:
        async with deployment.desk() as desk:
            for _ in range(5):
                await desk._queue.enqueue(fit)
            return await desk.queue_depth()

    assert asyncio.run(again()) == 1
    deployment.worker()
    deployment.worker()
    deployment.begun(fit)
    asyncio.run(again())
    assert ends(deployment, fit) == "succeeded"
    time.sleep(2 * deployment.settings.sweep_interval_s)
    assert len(deployment.runs("begin", fit)) == 1


def test_a_queued_fit_that_is_cancelled_never_runs(
    deployment: Deployment, make_spec: MakeSpec
) -> None:
    cancelled, other = submit(deployment, make_spec("quick-a"), make_spec("quick-b"))
    cancel(deployment, cancelled)
    assert deployment.status(cancelled) == "cancelled"
    with pytest.raises(FitEndedError):
        cancel(deployment, cancelled)
    deployment.worker()
    assert ends(deployment, other) == "succeeded"
    assert deployment.runs("begin", cancelled) == []


def test_a_running_fit_that_is_cancelled_stops_within_a_beat(
    deployment: Deployment, make_spec: MakeSpec
) -> None:
    deployment.worker()
    (fit,) = submit(deployment, make_spec("slow", 30_000))
    deployment.begun(fit)
    cancelled_at = time.time()
    cancel(deployment, fit)
    assert deployment.status(fit) == "cancelled"
    (stop,) = until(lambda: deployment.runs("stop:ended", fit))
    assert stop.at_unix_s - cancelled_at < deployment.settings.heartbeat_s + SLACK_S
    (after,) = submit(deployment, make_spec("quick"))
    assert ends(deployment, after) == "succeeded"


def test_a_running_fit_can_be_cancelled_while_redis_is_away(
    deployment: Deployment, make_spec: MakeSpec
) -> None:
    deployment.worker()
    (fit,) = submit(deployment, make_spec("slow", 30_000))
    deployment.begun(fit)
    deployment.kill_redis()
    cancel(deployment, fit)
    assert deployment.status(fit) == "cancelled"
    until(lambda: deployment.runs("stop:ended", fit))


def test_a_fit_recorded_just_before_redis_fails_is_queued_by_a_sweep(
    deployment: Deployment, make_spec: MakeSpec
) -> None:
    deployment.kill_redis()
    fit = deployment.store.create(make_spec("quick")).fit_id  # as far as `submit` would get
    deployment.worker()
    time.sleep(1.0)
    deployment.restart_redis()
    assert ends(deployment, fit) == "succeeded"


def test_nothing_is_recorded_when_redis_is_known_to_be_away(
    deployment: Deployment, make_spec: MakeSpec
) -> None:
    deployment.kill_redis()
    with pytest.raises(QueueUnavailableError):
        submit(deployment, make_spec("quick"))
    assert deployment.store.versions("quick") == ()


def test_a_worker_that_is_told_to_exit_hands_its_fit_over_at_once(
    deploy: Callable[..., Deployment], make_spec: MakeSpec
) -> None:
    deployment = deploy(max_attempts=1, lease_s=20.0, sweep_interval_s=20.0)
    leaving, staying = deployment.worker(), deployment.worker()
    (fit,) = submit(deployment, make_spec("slow", 1500))
    if holder(deployment, fit) is staying:
        leaving, staying = staying, leaving
    leaving.send(signal.SIGTERM)
    told_at = time.time()
    assert leaving.exits(timeout_s=5.0) == 0
    again = deployment.begun(fit, times=2)
    assert again.at_unix_s - told_at < 1.0 + SLACK_S
    assert again.pid == staying.pid
    assert ends(deployment, fit) == "succeeded"  # the first attempt did not count as lost


def test_a_handler_that_ignores_the_shutdown_is_abandoned(
    deployment: Deployment, make_spec: MakeSpec
) -> None:
    worker = deployment.worker()
    (fit,) = submit(deployment, make_spec("deaf", 60_000))
    deployment.begun(fit)
    worker.send(signal.SIGTERM)
    assert worker.exits(timeout_s=deployment.settings.fit_stop_grace_s + 5.0) == 0
    assert deployment.store.state(fit).released == {1}


def test_a_worker_whose_handler_ignores_a_cancel_exits_to_be_started_anew(
    deployment: Deployment, make_spec: MakeSpec
) -> None:
    worker = deployment.worker()
    (fit,) = submit(deployment, make_spec("deaf", 60_000))
    deployment.begun(fit)
    cancel(deployment, fit)
    (after,) = submit(deployment, make_spec("quick"))
    assert worker.exits(timeout_s=deployment.settings.fit_stop_grace_s + 5.0) == 1
    assert f"{fit} went on for 1 s after it was to stop" in worker.log.read_text()
    deployment.worker()
    assert ends(deployment, after) == "succeeded"
    assert deployment.status(fit) == "cancelled"


@pytest.mark.parametrize("fault", ["kill_redis", "hang_redis"])
def test_a_worker_exits_when_told_to_whatever_redis_does(
    deploy: Callable[..., Deployment], make_spec: MakeSpec, fault: str
) -> None:
    deployment = deploy(redis_timeout_s=1.0)
    worker = deployment.worker()
    (fit,) = submit(deployment, make_spec("slow", 60_000))
    deployment.begun(fit)
    getattr(deployment, fault)()
    time.sleep(0.5)
    worker.send(signal.SIGTERM)
    assert worker.exits(timeout_s=10.0) == 0
    assert deployment.store.state(fit).released == {1}


def test_a_hanging_redis_delays_no_call_for_long(
    deploy: Callable[..., Deployment], make_spec: MakeSpec
) -> None:
    deployment = deploy(redis_timeout_s=0.4)
    (fit,) = submit(deployment, make_spec("quick"))

    async def calls() -> None:
        async with deployment.desk() as desk:
            deployment.hang_redis()
            for call in (desk.ping(), desk.queue_depth(), desk.submit(make_spec("quick-b"))):
                with pytest.raises(QueueUnavailableError):
                    await call
            assert (await desk.record(fit)).status == "queued"
            assert len((await desk.page()).records) == 1
            assert (await desk.cancel(fit)).status == "cancelled"
            deployment.wake_redis()
            await desk.ping()

    began_at = time.monotonic()
    asyncio.run(calls())
    assert time.monotonic() - began_at < 6 * deployment.settings.redis_timeout_s + SLACK_S


def test_a_fit_that_pydocket_wrongly_believes_to_be_running_is_queued_by_a_sweep(
    deployment: Deployment, make_spec: MakeSpec
) -> None:
    (fit,) = submit(deployment, make_spec("quick"))
    with deployment.redis() as redis:
        redis.delete(f"{DOCKET_NAME}:stream")
        redis.hset(f"{DOCKET_NAME}:runs:{fit}", "state", "running")
        redis.hdel(f"{DOCKET_NAME}:runs:{fit}", "known", "stream_id")
    deployment.worker()
    assert ends(deployment, fit) == "succeeded"
