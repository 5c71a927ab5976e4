import asyncio
from contextlib import aclosing
from typing import Any

import pytest

from jobs.desk import POLL_INTERVAL_S, POLLS_PER_LOOK, FitDesk
from jobs.ensembles import EnsembleStore
from jobs.errors import EnsembleDeletedError, FitEndedError, FitNotFoundError
from jobs.records import (
    OUTCOME_EVENT_ID,
    EnsembleRecord,
    FitId,
    FitRequest,
    FitResultDocs,
    Progress,
    event_id,
)
from tests.jobs.conftest import Deployment, MakeSpec

DOCS = FitResultDocs(b"artifact", {"chosen": "hgprompt"})


async def follow(desk: FitDesk, fit_id: FitId, last_event_id: str | None = None) -> list[Progress]:
    return [event async for event in desk.events(fit_id, last_event_id)]


def ids(events: list[Progress]) -> list[str | None]:
    return [event.id for event in events]


def test_events_resume_anywhere_and_are_the_same_after_the_end(
    deployment: Deployment, make_spec: MakeSpec
) -> None:
    async def scenario() -> None:
        async with deployment.desk() as desk:
            fit_id = (await desk.submit(make_spec("quick"))).fit_id
            deployment.worker()
            live = await follow(desk, fit_id)
            assert [event.stage for event in live] == [None, None, "features", "weights", None]
            assert [event.event for event in live] == ["progress"] * 4 + ["outcome"]
            assert live[-1].status == "succeeded"
            assert await follow(desk, fit_id) == live
            for position, event in enumerate(live):
                assert await follow(desk, fit_id, event.id) == live[position + 1 :]
            deployment.flush_redis()
            assert await follow(desk, fit_id) == live[-1:]
            assert await follow(desk, fit_id, live[1].id) == live[-1:]
            assert await follow(desk, fit_id, live[-1].id) == []

    asyncio.run(scenario())


@pytest.mark.parametrize("last_event_id", ["", "x", "1", "-1-1", "1-1-1", "1-" + "9" * 30, "²-1"])
def test_a_malformed_position_is_the_beginning(
    deployment: Deployment, make_spec: MakeSpec, last_event_id: str
) -> None:
    async def scenario() -> None:
        async with deployment.desk() as desk:
            fit_id = (await desk.submit(make_spec("quick"))).fit_id
            await desk.cancel(fit_id)
            assert ids(await follow(desk, fit_id, last_event_id)) == ["0-1", OUTCOME_EVENT_ID]

    asyncio.run(scenario())


def test_a_reader_sees_the_end_although_redis_was_lost_before_it(
    deployment: Deployment, make_spec: MakeSpec
) -> None:
    async def scenario() -> None:
        async with deployment.desk() as desk:
            fit_id = (await desk.submit(make_spec("quick"))).fit_id
            async with aclosing(desk.events(fit_id)) as events:
                assert (await anext(events)).id == "0-1"
                deployment.kill_redis()
                await asyncio.to_thread(deployment.store.cancel, fit_id)
                assert (await anext(events)).status == "cancelled"

    asyncio.run(scenario())


def test_an_outage_of_the_store_only_delays_the_end(
    deployment: Deployment, make_spec: MakeSpec
) -> None:
    store, away = deployment.folder / "store", deployment.folder / "away"

    async def scenario() -> None:
        async with deployment.desk() as desk:
            fit_id = (await desk.submit(make_spec("quick"))).fit_id
            async with aclosing(desk.events(fit_id)) as events:
                assert (await anext(events)).id == "0-1"
                store.rename(away)
                end = asyncio.ensure_future(anext(events))
                # Two looks into the store.
                await asyncio.wait({end}, timeout=2 * POLLS_PER_LOOK * POLL_INTERVAL_S)
                assert not end.done()
                away.rename(store)
                deployment.kill_redis()
                await asyncio.to_thread(deployment.store.cancel, fit_id)
                assert (await end).status == "cancelled"

    asyncio.run(scenario())


def test_a_fit_that_is_recorded_is_acknowledged_although_redis_was_lost_meanwhile(
    deployment: Deployment, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = deployment.store.create

    def lose_redis(*given: Any) -> FitRequest:
        deployment.kill_redis()
        return create(*given)

    monkeypatch.setattr(deployment.store, "create", lose_redis)

    async def scenario() -> None:
        async with deployment.desk() as desk:
            fit_id = (await desk.submit(make_spec("quick"))).fit_id
            deployment.restart_redis()
            deployment.worker()
            assert (await follow(desk, fit_id))[-1].status == "succeeded"

    asyncio.run(scenario())


def test_there_are_no_events_of_what_does_not_exist(deployment: Deployment) -> None:
    async def scenario() -> None:
        async with deployment.desk() as desk:
            with pytest.raises(FitNotFoundError):
                await follow(desk, FitId("fashion", 1))
            with pytest.raises(FitNotFoundError):
                await desk.record(FitId("fashion", 1))
            with pytest.raises(FitNotFoundError):
                await desk.cancel(FitId("fashion", 1))

    asyncio.run(scenario())


def test_a_record_follows_the_fit(deployment: Deployment, make_spec: MakeSpec) -> None:
    async def scenario() -> None:
        async with deployment.desk() as desk:
            fit_id = (await desk.submit(make_spec("slow", 1500))).fit_id
            assert (await desk.record(fit_id)).status == "queued"
            deployment.worker()
            await asyncio.to_thread(deployment.begun, fit_id)
            await asyncio.sleep(0.5)
            record = await desk.record(fit_id)
            assert (record.status, record.attempt) == ("running", 1)
            assert record.progress is not None
            assert (record.progress.stage, record.progress.total) == ("tuning", 2)
            await follow(desk, fit_id)
            record = await desk.record(fit_id, with_result=True)
            assert (record.status, record.progress) == ("succeeded", None)
            assert record.result == {"attempt": 1, "seed": 1500}
            with pytest.raises(FitEndedError):
                await desk.cancel(fit_id)

    asyncio.run(scenario())


def test_a_held_fit_without_a_beat_is_shown_as_queued(
    deployment: Deployment, make_spec: MakeSpec
) -> None:
    async def scenario() -> None:
        async with deployment.desk() as desk:
            fit_id = (await desk.submit(make_spec("quick"))).fit_id
            deployment.store.claim_attempt(fit_id, "a worker that has died")
            assert (await desk.record(fit_id)).status == "queued"
            deployment.kill_redis()
            assert (await desk.record(fit_id)).status == "running"  # for all the store can tell

    asyncio.run(scenario())


def test_a_page_shows_what_each_name_means(deployment: Deployment, make_spec: MakeSpec) -> None:
    store = deployment.store
    served = store.create(make_spec("a")).fit_id
    store.publish_result(served, store.claim_attempt(served, "worker"), DOCS)
    store.create(make_spec("a"))
    store.create(make_spec("b"))

    async def scenario() -> None:
        async with deployment.desk() as desk:
            first = await desk.page(limit=1)
            assert [record.fit_id for record in first.records] == [served]
            second = await desk.page(start_after=first.next_cursor, limit=2)
            assert [str(record.fit_id) for record in second.records] == ["b@1"]
            assert second.next_cursor is None
            versions = await desk.versions("a")
            assert [record.status for record in versions.records] == ["succeeded", "queued"]
            assert versions.next_cursor is None
            assert (await desk.versions("a", limit=1)).next_cursor == "1"
            (second,) = (await desk.versions("a", after=1, limit=1)).records
            assert second.status == "queued"
            with pytest.raises(FitNotFoundError, match="no ensemble 'c'"):
                await desk.versions("c")
            assert await desk.current("a") == served
            assert await desk.newest("a") == FitId("a", 2)

    asyncio.run(scenario())


def test_pages_are_full_without_what_was_deleted(
    deployment: Deployment, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = deployment.store
    for name in "abcde":
        store.cancel(store.create(make_spec(name)).fit_id)
    for name in "bce":
        store.delete(name)

    async def scenario() -> None:
        async with deployment.desk() as desk:
            first = await desk.page(limit=2)
            assert [record.name for record in first.records] == ["a", "d"]
            assert first.next_cursor is None
            assert (await desk.page(limit=1)).next_cursor == "a"
            with pytest.raises(EnsembleDeletedError, match="'b' has been deleted"):
                await desk.versions("b")
            with pytest.raises(EnsembleDeletedError, match="b@1"):
                await desk.record(FitId("b", 1))

            def delete_first(fit_id: FitId, **_: object) -> EnsembleRecord:
                store.delete(fit_id.name)
                return EnsembleStore.record(store, fit_id)

            # a deletion between the listing and the look
            monkeypatch.setattr(store, "record", delete_first)
            assert (await desk.page()).records == []

    asyncio.run(scenario())


def test_progress_of_an_attempt_that_was_taken_over_is_not_shown(
    deployment: Deployment, make_spec: MakeSpec
) -> None:
    async def scenario() -> None:
        async with deployment.desk() as desk:
            fit_id = (await desk.submit(make_spec("slow"))).fit_id
            for number in (1, 2):
                deployment.store.claim_attempt(fit_id, "worker")
                await desk._board.beat(fit_id, number)
            for number, shown in ((1, None), (2, "weights")):
                event = Progress(
                    id=event_id(number, 1), status="running", attempt=number, stage="weights"
                )
                assert await desk._board.post(fit_id, event)
                record = await desk.record(fit_id)
                assert (record.status, record.attempt) == ("running", 2)
                assert (record.progress and record.progress.stage) == shown

    asyncio.run(scenario())
