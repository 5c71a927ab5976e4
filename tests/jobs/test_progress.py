import asyncio
import json
from collections.abc import Awaitable, Callable

import pytest

from jobs.errors import QueueUnavailableError
from jobs.progress import ProgressBoard
from jobs.records import OUTCOME_EVENT_ID, FitId, Progress, event_id
from jobs.redis_keys import SWEEP_KEY, beat_key, events_key
from tests.jobs.conftest import Deployment

FIT = FitId("fashion", 1)
OTHER = FitId("fashion", 2)


def on_board(deployment: Deployment, scenario: Callable[[ProgressBoard], Awaitable[None]]) -> None:
    async def run() -> None:
        async with ProgressBoard(deployment.settings) as board:
            await scenario(board)

    asyncio.run(run())


def progress(attempt: int, number: int, **fields: object) -> Progress:
    return Progress.model_validate(
        {"id": event_id(attempt, number), "status": "running", "attempt": attempt, **fields}
    )


def test_an_older_attempt_cannot_hide_a_newer_one(deployment: Deployment) -> None:
    async def scenario(board: ProgressBoard) -> None:
        assert await board.beat(FIT, 2)
        assert not await board.beat(FIT, 1)
        await board.drop_beat(FIT, 1)
        (standing,) = await board.standing([FIT])
        assert standing.running_attempt == 2
        await board.drop_beat(FIT, 2)
        assert await board.without_beat([FIT, OTHER]) == [FIT, OTHER]

    on_board(deployment, scenario)


def test_a_beat_lasts_for_the_lease(deployment: Deployment) -> None:
    async def scenario(board: ProgressBoard) -> None:
        await board.beat(FIT, 1)
        assert await board.without_beat([FIT, OTHER]) == [OTHER]

    on_board(deployment, scenario)
    with deployment.redis() as redis:
        lease_ms = deployment.settings.lease_s * 1000
        assert 0.5 * lease_ms < redis.pttl(beat_key(FIT)) <= lease_ms


def test_a_fit_that_beats_again_in_time_is_not_silent(deployment: Deployment) -> None:
    async def scenario(board: ProgressBoard) -> None:
        async def beat_later() -> None:
            await asyncio.sleep(deployment.settings.heartbeat_s)
            await board.beat(FIT, 1)

        silent, _ = await asyncio.gather(board.silent([FIT, OTHER]), beat_later())
        assert silent == [OTHER]

    on_board(deployment, scenario)


def test_events_are_read_from_where_the_reader_left_off(deployment: Deployment) -> None:
    events = [progress(1, 1), progress(1, 2, stage="weights", weights={"a": 0.5}), progress(2, 1)]

    async def scenario(board: ProgressBoard) -> None:
        assert await board.after(FIT, None) == []
        for event in events:
            assert await board.post(FIT, event)
        assert await board.after(FIT, None) == events
        assert await board.after(FIT, "1-1") == events[1:]
        assert await board.after(FIT, "2-1") == []
        assert (await board.standing([FIT, OTHER]))[0].latest == events[-1]
        assert (await board.standing([FIT, OTHER]))[1].latest is None

    on_board(deployment, scenario)
    with deployment.redis() as redis:
        ttl_s = deployment.settings.progress_ttl_s
        assert 0.5 * ttl_s < redis.ttl(events_key(FIT)) <= ttl_s


def test_fits_stand_in_the_order_asked_for_in_however_many_exchanges(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.redis_exchange.MAX_PER_EXCHANGE", 2)
    fits = [FitId("fashion", version) for version in range(1, 6)]

    def reads() -> int:
        with deployment.redis() as redis:
            return redis.info("stats")["total_reads_processed"]

    async def scenario(board: ProgressBoard) -> None:
        for fit_id in fits[1:]:
            await board.beat(fit_id, fit_id.version)
            assert await board.post(fit_id, progress(fit_id.version, 1))
        earlier, before = reads(), reads()
        standings = await board.standing(fits)
        assert reads() - before == 3 + (before - earlier)  # which `reads` itself costs
        assert [each.running_attempt for each in standings] == [None, 2, 3, 4, 5]
        assert [each.latest for each in standings] == [
            None,
            *(progress(fit_id.version, 1) for fit_id in fits[1:]),
        ]
        assert await board.standing([]) == []

    on_board(deployment, scenario)


def test_events_of_newer_workers_are_read_as_far_as_they_are_understood(
    deployment: Deployment,
) -> None:
    with deployment.redis() as redis:
        newer = {"status": "running", "attempt": 1, "stage": "weights", "rate": 2}
        for number, text in enumerate((json.dumps(newer), '{"status": "paused"}', "{"), start=1):
            redis.xadd(events_key(FIT), {"progress": text}, id=event_id(1, number))
        redis.xadd(events_key(FIT), {"what": "?"}, id=event_id(1, 4))

    async def scenario(board: ProgressBoard) -> None:
        assert await board.after(FIT, None) == [progress(1, 1, stage="weights")]
        assert (await board.standing([FIT]))[0].latest is None
        assert await board.post(FIT, progress(1, 5))
        assert (await board.standing([FIT]))[0].latest == progress(1, 5)

    on_board(deployment, scenario)


def test_redis_refuses_what_comes_after_the_outcome_or_a_newer_attempt(
    deployment: Deployment,
) -> None:
    outcome = Progress(id=OUTCOME_EVENT_ID, status="cancelled", attempt=2)

    async def scenario(board: ProgressBoard) -> None:
        assert await board.post(FIT, progress(2, 1))
        assert not await board.post(FIT, progress(1, 7))
        assert await board.post(FIT, outcome)
        assert not await board.post(FIT, outcome)
        assert not await board.post(FIT, progress(3, 1))
        assert [event.id for event in await board.after(FIT, None)] == ["2-1", OUTCOME_EVENT_ID]

    on_board(deployment, scenario)


def test_a_stream_is_bounded(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.progress.MAX_EVENTS", 100)

    async def scenario(board: ProgressBoard) -> None:
        for number in range(1, 500):
            await board.post(FIT, progress(1, number))

    on_board(deployment, scenario)
    with deployment.redis() as redis:
        assert redis.xlen(events_key(FIT)) <= 200  # Redis trims whole blocks of 100


def test_one_sweeper_of_a_deployment_has_the_turn(deployment: Deployment) -> None:
    async def scenario(board: ProgressBoard) -> None:
        assert await board.take_sweep("a")
        assert not await board.take_sweep("b")
        await asyncio.sleep(0.5 * deployment.settings.sweep_interval_s)
        assert not await board.take_sweep("b")
        await asyncio.sleep(0.5 * deployment.settings.sweep_interval_s)
        assert await board.take_sweep("a")

    on_board(deployment, scenario)


def test_a_turn_is_over_before_the_next_sweep(deploy: Callable[..., Deployment]) -> None:
    """Else the sweeper that had it finds it taken, and every other sweep is left out."""
    deployment = deploy(sweep_interval_s=60.0)

    async def scenario(board: ProgressBoard) -> None:
        assert await board.take_sweep("a")

    on_board(deployment, scenario)
    with deployment.redis() as redis:
        left_ms = redis.pttl(SWEEP_KEY)
    assert 0 < left_ms < 60_000


def test_what_lasts_longer_than_it_is_given_has_expired(deployment: Deployment) -> None:
    """As when the clock of Redis's host is set back by an hour."""
    settings = deployment.settings

    def set_back(key: str, given_s: float) -> None:
        with deployment.redis() as redis:
            assert redis.pexpire(key, int(1000 * (given_s + 3600)))

    async def scenario(board: ProgressBoard) -> None:
        await board.beat(FIT, 1)
        assert await board.take_sweep("a")
        set_back(beat_key(FIT), settings.lease_s)
        set_back(SWEEP_KEY, settings.sweep_interval_s)
        assert await board.silent([FIT]) == [FIT]
        assert (await board.standing([FIT]))[0].running_attempt is None
        assert await board.take_sweep("b")
        assert not await board.take_sweep("a")
        await board.beat(FIT, 1)  # it is alive
        assert await board.without_beat([FIT]) == []
        assert (await board.standing([FIT]))[0].running_attempt == 1

    on_board(deployment, scenario)


def test_the_first_call_after_a_restart_of_redis_succeeds(deployment: Deployment) -> None:
    async def scenario(board: ProgressBoard) -> None:
        await board.ping()
        deployment.kill_redis()
        with pytest.raises(QueueUnavailableError):
            await board.ping()
        deployment.restart_redis()
        await board.ping()
        deployment.kill_redis()
        deployment.restart_redis()
        await board.ping()

    on_board(deployment, scenario)


def test_a_call_can_be_cancelled_at_any_moment(deployment: Deployment) -> None:
    async def scenario(board: ProgressBoard) -> None:
        async def call_for_ever() -> None:
            while True:
                await board.ping()

        for microseconds in range(100):
            calling = asyncio.create_task(call_for_ever())
            await asyncio.sleep(microseconds / 1e6)
            calling.cancel()
            _, lost = await asyncio.wait({calling}, timeout=1.0)
            assert not lost, f"the cancellation after {microseconds} us was lost"

    on_board(deployment, scenario)
