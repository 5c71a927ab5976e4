import asyncio
import signal
import time
from collections.abc import Callable, Sequence

import pytest
from redis import Redis
from redis.exceptions import ResponseError

from jobs.dispatch import FitQueue
from jobs.errors import QueueUnavailableError
from jobs.progress import ProgressBoard
from jobs.records import FitId
from jobs.sweeper import Sweeper
from tests.jobs.conftest import Deployment, MakeSpec, until

pytestmark = pytest.mark.alone

STREAM, GROUP = "hgprompt:fits:stream", "docket-workers"


def sweep(deployment: Deployment, running: FitId | None = None) -> tuple[int, int]:
    """Sweep once; how many fits were queued, and how long the queue is then."""

    async def once() -> tuple[int, int]:
        async with (
            FitQueue(deployment.settings) as queue,
            ProgressBoard(deployment.settings) as board,
        ):
            if running is not None:
                await board.beat(running, 1)
            sweeper = Sweeper(deployment.store, queue, board, "sweeper", 1.0)
            return await sweeper.sweep(), await queue.depth()

    return asyncio.run(once())


def test_what_is_unfinished_and_not_running_is_queued_once(
    deployment: Deployment, make_spec: MakeSpec
) -> None:
    ended, running, waiting = (deployment.store.create(make_spec(n)).fit_id for n in "abc")
    deployment.store.cancel(ended)
    assert sweep(deployment, running) == (1, 1)
    assert sweep(deployment, running) == (1, 1)
    deployment.flush_redis()
    assert sweep(deployment, running) == (1, 1)
    with deployment.redis() as redis:
        assert redis.exists(f"hgprompt:fits:runs:{waiting}")


def test_a_fit_whose_message_is_lost_is_queued_again(
    deployment: Deployment, make_spec: MakeSpec
) -> None:
    """As by a Redis that evicts keys: pydocket still believes that the fit is queued."""
    waiting = deployment.store.create(make_spec("a")).fit_id
    assert sweep(deployment) == (1, 1)
    with deployment.redis() as redis:
        redis.delete("hgprompt:fits:stream")
        assert redis.hget(f"hgprompt:fits:runs:{waiting}", "state") in ("queued", b"queued")
    assert sweep(deployment) == (1, 1)


def test_a_fit_that_ends_while_it_is_listened_for_is_not_queued(
    deployment: Deployment, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    ending, waiting = (deployment.store.create(make_spec(n)).fit_id for n in "ab")
    silent = ProgressBoard.silent

    async def end_one(board: ProgressBoard, fit_ids: Sequence[FitId]) -> list[FitId]:
        found = await silent(board, fit_ids)
        deployment.store.cancel(ending)
        return found

    monkeypatch.setattr(ProgressBoard, "silent", end_one)
    assert sweep(deployment) == (1, 1)
    assert list(deployment.store.unfinished()) == [waiting]


def test_nothing_unfinished_is_nothing_to_do(deployment: Deployment) -> None:
    assert sweep(deployment) == (0, 0)


def test_a_sweep_without_redis_says_so(deployment: Deployment, make_spec: MakeSpec) -> None:
    deployment.store.create(make_spec("a"))
    deployment.kill_redis()
    with pytest.raises(QueueUnavailableError):
        sweep(deployment)


def consumers(deployment: Deployment) -> set[str]:
    with deployment.redis() as client:
        try:
            return {found["name"] for found in client.xinfo_consumers(STREAM, GROUP)}
        except ResponseError:  # no worker has made the group yet
            return set()


def test_workers_that_are_gone_are_forgotten_unless_they_hold_a_fit(
    deployment: Deployment, make_spec: MakeSpec
) -> None:
    deployment.store.create(make_spec("a"))
    assert sweep(deployment) == (1, 1)
    # Messages are pickled, so they are read as bytes.
    with Redis(unix_socket_path=str(deployment.socket)) as client:
        client.xgroup_create(STREAM, GROUP, id="0-0")
        for gone in ("gone", "long-gone"):
            client.xgroup_createconsumer(STREAM, GROUP, gone)
        assert client.xreadgroup(GROUP, "gone-with-a-fit", {STREAM: ">"})
        time.sleep(deployment.settings.lease_s + 0.1)
        client.xreadgroup(GROUP, "waiting", {STREAM: ">"})
        sweep(deployment)
        assert consumers(deployment) == {"gone-with-a-fit", "waiting"}
        assert client.xpending(STREAM, GROUP)["pending"] == 1


def test_a_worker_that_was_killed_is_forgotten_and_one_that_waits_is_not(
    deployment: Deployment, make_spec: MakeSpec
) -> None:
    killed = deployment.worker()
    until(lambda: len(consumers(deployment)) == 1)
    dead = consumers(deployment)
    deployment.worker()
    until(lambda: len(consumers(deployment)) == 2)
    killed.send(signal.SIGKILL)
    until(lambda: consumers(deployment).isdisjoint(dead))
    time.sleep(2 * deployment.settings.lease_s)
    assert len(consumers(deployment)) == 1
    fit_id = deployment.store.create(make_spec("quick")).fit_id
    until(lambda: deployment.status(fit_id) == "succeeded")


def test_more_fits_are_queued_than_redis_can_be_asked_about_at_once(
    deploy: Callable[..., Deployment],
) -> None:
    deployment = deploy(redis_timeout_s=1.0)
    many = [FitId("a", number) for number in range(1, 60_001)]
    waiting = many[:1_000]

    def reads() -> int:
        with deployment.redis() as redis:
            return redis.info("stats")["total_reads_processed"]

    async def once() -> tuple[int, int]:
        async with (
            FitQueue(deployment.settings) as queue,
            ProgressBoard(deployment.settings) as board,
        ):
            assert await board.without_beat(many) == many
            await queue.enqueue_abandoned(waiting)
            before = reads()
            await queue.enqueue_abandoned(waiting)
            return reads() - before, await queue.depth()

    exchanges, depth = asyncio.run(once())
    assert depth == len(waiting)
    assert exchanges < len(waiting) / 5
