"""What becomes of a handler's answer; crashes of whole workers are in `test_faults`."""

import asyncio
import json
import logging
import threading
import time
from collections import defaultdict
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from jobs.conclusion import Patience
from jobs.context import FitContext
from jobs.desk import FitDesk
from jobs.errors import FitNotFoundError, FitStoppedError, WorkerBrokenError
from jobs.observer import AttemptReport, FitObserver
from jobs.records import FitAttempt, FitId, FitOutcome, FitResultDocs, FitSpec
from jobs.runner import FitHandler
from jobs.store_keys import request_key
from jobs.worker import run_worker
from prompt_store.errors import NotFoundError, StoreFullError, StoreUnavailableError
from tests.damage import leave_half
from tests.jobs.conftest import Deployment, MakeSpec, until

DOCS = FitResultDocs(b"artifact", {})


class TaskTooSmallError(ValueError):
    pass


@asynccontextmanager
async def working(
    deployment: Deployment, handler: FitHandler, observer: FitObserver | None = None
) -> AsyncGenerator[FitDesk]:
    """A desk, and a worker in this process."""
    stopping = asyncio.Event()
    worker = asyncio.create_task(
        run_worker(
            handler,
            deployment.store,
            deployment.settings,
            stopping=stopping,
            expected=(TaskTooSmallError, NotFoundError),
            observer=observer,
        )
    )
    try:
        async with deployment.desk() as desk:
            yield desk
    finally:
        stopping.set()
        await worker


async def outcome_of(desk: FitDesk, spec: FitSpec) -> FitOutcome:
    fit_id = (await desk.submit(spec)).fit_id
    async for _ in desk.events(fit_id):
        pass
    outcome = desk.store.outcome(fit_id)
    assert outcome is not None
    return outcome


def test_each_kind_of_answer_ends_the_fit_and_the_worker_goes_on(
    deployment: Deployment, make_spec: MakeSpec, caplog: pytest.LogCaptureFixture
) -> None:
    def handler(context: FitContext) -> FitResultDocs:
        match context.request.name:
            case "small":
                raise TaskTooSmallError("1 image, at least 2 are needed")
            case "bug":
                raise KeyError("secret")
            case "exhausted":
                return next(iter(()))
            case "exits":
                raise SystemExit(3)
            case "not-json":
                return FitResultDocs(b"artifact", {"accuracy": float("nan")})
            case _:
                return DOCS

    async def scenario() -> None:
        async with working(deployment, handler) as desk:
            small = await outcome_of(desk, make_spec("small"))
            assert small.status == "failed"
            assert small.error is not None
            assert small.error.detail == "1 image, at least 2 are needed"
            assert "KeyError" not in caplog.text
            names = {"bug": "KeyError", "exhausted": "StopIteration", "exits": "SystemExit",
                     "not-json": "ValueError"}  # fmt: skip
            for name, raised in names.items():
                failed = await outcome_of(desk, make_spec(name))
                assert failed.error is not None
                assert raised in failed.error.detail
                assert "secret" not in failed.error.detail
            assert 'raise KeyError("secret")' in caplog.text  # the traceback is in the log
            assert (await outcome_of(desk, make_spec("good"))).status == "succeeded"

    with caplog.at_level(logging.ERROR, logger="jobs"):
        asyncio.run(scenario())


class Ends:
    """How the attempts at each ensemble ended, in order."""

    def __init__(self) -> None:
        self.running = 0
        self.of: defaultdict[str, list[str]] = defaultdict(list)

    def attempt_began(self) -> None:
        self.running += 1

    def attempt_ended(self, report: AttemptReport) -> None:
        self.running -= 1
        self.of[report.fit_id.name].append(report.end)


async def until_begun(desk: FitDesk, spec: FitSpec) -> FitId:
    """Submit a fit; return it once it has reported something."""
    fit_id = (await desk.submit(spec)).fit_id
    async for event in desk.events(fit_id):
        if event.stage is not None:
            break
    return fit_id


def until_told_to_stop(context: FitContext) -> FitResultDocs:
    context.report_progress("tuning")
    until(context.should_stop)
    raise FitStoppedError


def test_an_observer_is_told_of_each_attempt_and_how_it_ended(
    deployment: Deployment, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.runner.REST_S", (0.05,))
    ends = Ends()

    def handler(context: FitContext) -> FitResultDocs:
        assert ends.running == 1
        match context.request.name:
            case "small":
                raise TaskTooSmallError
            case "unread" if context.attempt == 1:
                raise StoreUnavailableError("cannot read sha256/00: Input/output error")
            case "cancelled" | "handed-back":
                return until_told_to_stop(context)
            case _:
                return DOCS

    async def scenario() -> None:
        async with working(deployment, handler, ends) as desk:
            for name in ("good", "small", "unread"):
                await outcome_of(desk, make_spec(name))
            await desk.cancel(await until_begun(desk, make_spec("cancelled")))
            await until_begun(desk, make_spec("handed-back"))

    asyncio.run(scenario())
    assert ends.running == 0
    assert ends.of == {
        "good": ["succeeded"],
        "small": ["failed"],
        "unread": ["unrecorded", "succeeded"],
        "cancelled": ["cancelled"],
        "handed-back": ["shutdown"],
    }


def test_a_finish_that_comes_too_late_counts_as_what_it_came_after(
    deployment: Deployment, make_spec: MakeSpec
) -> None:
    """Not as unrecorded, which tells of a store that takes nothing."""
    ends = Ends()

    def handler(context: FitContext) -> FitResultDocs:
        fit_id = context.request.fit_id
        if fit_id.name == "cancelled":
            deployment.store.cancel(fit_id)
        elif context.attempt == 1:
            deployment.store.claim_attempt(fit_id, "another")
        return DOCS

    async def scenario() -> None:
        async with working(deployment, handler, ends) as desk:
            for name in ("cancelled", "overtaken"):
                await outcome_of(desk, make_spec(name))

    asyncio.run(scenario())
    assert ends.of == {"cancelled": ["cancelled"], "overtaken": ["overtaken", "succeeded"]}


def test_who_follows_a_fit_is_told_that_it_was_handed_back(
    deployment: Deployment, make_spec: MakeSpec
) -> None:
    async def scenario() -> None:
        async with working(deployment, until_told_to_stop) as desk:
            fit_id = await until_begun(desk, make_spec("fashion"))
        async with working(deployment, lambda _: DOCS) as desk:
            told = [(event.status, event.attempt) async for event in desk.events(fit_id)]
        ran_again = [("queued", 1), ("running", 2), ("succeeded", 2)]
        assert told == [("queued", 0), ("running", 1), ("running", 1), *ran_again]

    asyncio.run(scenario())


def test_a_silent_handler_keeps_its_lease(deployment: Deployment, make_spec: MakeSpec) -> None:
    begun: list[int] = []

    def handler(context: FitContext) -> FitResultDocs:
        begun.append(context.attempt)
        time.sleep(2.5 * deployment.settings.lease_s)
        return DOCS

    async def scenario() -> None:
        async with working(deployment, handler) as desk:
            assert (await outcome_of(desk, make_spec("silent"))).attempt == 1

    asyncio.run(scenario())
    assert begun == [1]


def test_a_fit_that_beats_is_not_taken_by_who_gets_it_twice(
    deployment: Deployment, make_spec: MakeSpec
) -> None:
    """As when Redis comes back from a long outage with the queue but with every beat expired."""
    begun: list[int] = []

    def handler(context: FitContext) -> FitResultDocs:
        begun.append(context.attempt)
        time.sleep(1.0)
        return DOCS

    async def scenario() -> None:
        async with working(deployment, handler) as desk, working(deployment, handler):
            fit_id = (await desk.submit(make_spec("silent"))).fit_id
            await asyncio.to_thread(until, lambda: begun)
            with deployment.redis() as redis:
                redis.delete(f"hgprompt:fit:{{{fit_id}}}:beat")
            await desk._queue.enqueue_abandoned([fit_id])
            async for _ in desk.events(fit_id):
                pass

    asyncio.run(scenario())
    assert begun == [1]


def test_a_fit_outlives_a_store_that_is_away_when_it_ends(
    deployment: Deployment, make_spec: MakeSpec
) -> None:
    store = Path(deployment.settings.store_url.removeprefix("file://"))
    away = store.with_name("away")

    back = threading.Event()

    def come_back() -> None:
        store.unlink()
        away.rename(store)
        back.set()

    def handler(_: FitContext) -> FitResultDocs:
        store.rename(away)
        store.write_text("not a folder")
        threading.Timer(0.3, come_back).start()
        return DOCS

    async def scenario() -> None:
        async with working(deployment, handler) as desk:
            fit_id = (await desk.submit(make_spec("fashion"))).fit_id
            await asyncio.to_thread(back.wait, 10.0)
            told = [event.details async for event in desk.events(fit_id) if event.details]
            assert told == [{"waits_for": "the store"}]
            outcome = desk.store.outcome(fit_id)
            assert outcome is not None
            assert (outcome.status, outcome.attempt) == ("succeeded", 1)

    asyncio.run(scenario())


def test_a_fit_is_computed_until_the_store_has_room_for_its_result(
    deployment: Deployment, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A nearly full disk takes the small files of attempts: no worker was lost by them."""
    monkeypatch.setattr("jobs.conclusion.PUBLISH_RETRY_DELAYS_S", ())
    monkeypatch.setattr("jobs.ensembles.UNREAD_FOR", timedelta(0))  # that is of its inputs
    refusals = deployment.settings.max_attempts + 1
    publish = deployment.store.publish_result

    def nearly_full(fit_id: FitId, attempt: FitAttempt, docs: FitResultDocs) -> FitOutcome:
        if attempt.attempt <= refusals:
            raise StoreFullError("no room left")
        return publish(fit_id, attempt, docs)

    monkeypatch.setattr(deployment.store, "publish_result", nearly_full)

    async def scenario() -> None:
        async with working(deployment, lambda _: DOCS) as desk:
            outcome = await outcome_of(desk, make_spec("fashion"))
            assert (outcome.status, outcome.attempt) == ("succeeded", refusals + 1)
            assert desk.store.state(FitId("fashion", 1)).lost == 1

    asyncio.run(scenario())


@pytest.fixture
def waits_s(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long finished fits would have waited for the store; they do not."""
    waits_s: list[float] = []

    async def pause(delay_s: float, _: Patience) -> None:
        waits_s.append(delay_s)

    monkeypatch.setattr("jobs.conclusion._pause", pause)
    return waits_s


def attempts_until_success(deployment: Deployment, make_spec: MakeSpec) -> list[int]:
    """Have one fit computed until it has succeeded; return the attempts that computed it."""
    computed: list[int] = []

    def handler(context: FitContext) -> FitResultDocs:
        computed.append(context.attempt)
        return DOCS

    async def scenario() -> None:
        async with working(deployment, handler) as desk:
            outcome = await outcome_of(desk, make_spec("fashion"))
            assert (outcome.status, outcome.attempt) == ("succeeded", computed[-1])

    asyncio.run(scenario())
    return computed


def test_a_finished_fit_waits_for_room_for_longer_than_a_minute_and_is_computed_once(
    deployment: Deployment,
    make_spec: MakeSpec,
    waits_s: list[float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    publish = deployment.store.publish_result

    def full_and_then_replaced(
        fit_id: FitId, attempt: FitAttempt, docs: FitResultDocs
    ) -> FitOutcome:
        waited_min = sum(waits_s) / 60
        if waited_min < 30 or 35 <= waited_min < 40:
            raise StoreFullError("no room left")
        if waited_min < 45:
            raise FitNotFoundError(f"there is no ensemble version {fit_id}")
        return publish(fit_id, attempt, docs)

    monkeypatch.setattr(deployment.store, "publish_result", full_and_then_replaced)

    assert attempts_until_success(deployment, make_spec) == [1]
    assert 45 * 60 <= sum(waits_s) < 47 * 60


def test_a_finished_fit_that_is_not_found_any_more_keeps_its_worker_for_a_minute(
    deployment: Deployment,
    make_spec: MakeSpec,
    waits_s: list[float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    publish = deployment.store.publish_result

    def gone(fit_id: FitId, attempt: FitAttempt, docs: FitResultDocs) -> FitOutcome:
        if attempt.attempt == 1:
            raise FitNotFoundError(f"there is no ensemble version {fit_id}")
        return publish(fit_id, attempt, docs)

    monkeypatch.setattr(deployment.store, "publish_result", gone)

    assert attempts_until_success(deployment, make_spec) == [1, 2]
    assert 60 <= sum(waits_s) <= 90


def test_a_finished_fit_that_waits_says_for_what_and_gives_way_to_a_cancel_and_to_the_exit(
    deployment: Deployment, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.conclusion.PUBLISH_RETRY_DELAYS_S", (600.0,))

    def full(*_: object) -> FitOutcome:
        raise StoreFullError("no room left")

    monkeypatch.setattr(deployment.store, "publish_result", full)

    async def waiting(desk: FitDesk, name: str) -> FitId:
        fit_id = (await desk.submit(make_spec(name))).fit_id
        async for event in desk.events(fit_id):
            if event.stage == "publish":
                assert event.details == {"waits_for": "room in the store"}
                break
        record = await desk.record(fit_id)
        assert (record.status, record.attempt) == ("running", 1)
        assert record.progress is not None
        assert record.progress.details == {"waits_for": "room in the store"}
        return fit_id

    async def scenario() -> FitId:
        async with working(deployment, lambda _: DOCS) as desk:
            await desk.cancel(await waiting(desk, "cancelled"))
            return await waiting(desk, "fashion")

    # A twentieth of the delay.
    state = deployment.store.state(asyncio.run(asyncio.wait_for(scenario(), 30.0)))
    assert (state.released, state.lost, state.ended) == ({1}, 0, False)
    assert deployment.store.state(FitId("cancelled", 1)).released == set()


def test_a_finished_fit_is_recorded_by_a_worker_that_exits_once_there_is_room(
    deployment: Deployment, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.conclusion.PUBLISH_RETRY_DELAYS_S", (600.0,))
    publish = deployment.store.publish_result
    refused = threading.Event()

    def full_at_first(fit_id: FitId, attempt: FitAttempt, docs: FitResultDocs) -> FitOutcome:
        if refused.is_set():
            return publish(fit_id, attempt, docs)
        refused.set()
        raise StoreFullError("no room left")

    monkeypatch.setattr(deployment.store, "publish_result", full_at_first)

    async def scenario() -> FitId:
        async with working(deployment, lambda _: DOCS) as desk:
            fit_id = (await desk.submit(make_spec("fashion"))).fit_id
            await asyncio.to_thread(refused.wait, 10.0)
            return fit_id

    fit_id = asyncio.run(asyncio.wait_for(scenario(), 30.0))  # a twentieth of the delay
    assert deployment.status(fit_id) == "succeeded"


def test_a_fit_whose_inputs_are_not_found_while_the_store_is_away_runs_again(
    deployment: Deployment, make_spec: MakeSpec
) -> None:
    store = Path(deployment.settings.store_url.removeprefix("file://"))
    away = store.with_name("away")

    def come_back() -> None:
        store.rmdir()
        away.rename(store)

    def handler(context: FitContext) -> FitResultDocs:
        if context.attempt == 1:
            store.rename(away)
            store.mkdir()  # as the folder of a volume that is not mounted
            threading.Timer(0.3, come_back).start()
            raise NotFoundError("no object blobs/sha256/00")
        return DOCS

    async def scenario() -> None:
        async with working(deployment, handler) as desk:
            outcome = await outcome_of(desk, make_spec("fashion"))
            assert (outcome.status, outcome.attempt) == ("succeeded", 2)

    asyncio.run(scenario())


def test_a_fit_whose_inputs_cannot_be_read_for_a_while_loses_no_worker(
    deployment: Deployment, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.runner.REST_S", (0.05,))
    refusals = deployment.settings.max_attempts + 1

    def handler(context: FitContext) -> FitResultDocs:
        if context.attempt <= refusals:
            raise StoreUnavailableError("cannot read sha256/00: Input/output error")
        return DOCS

    async def scenario() -> None:
        async with working(deployment, handler) as desk:
            outcome = await outcome_of(desk, make_spec("fashion"))
            assert (outcome.status, outcome.attempt) == ("succeeded", refusals + 1)
            assert desk.store.state(FitId("fashion", 1)).lost == 1

    asyncio.run(scenario())


def test_a_fit_whose_inputs_can_never_be_read_is_dead_in_the_end(
    deployment: Deployment, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.runner.REST_S", (0.05,))
    monkeypatch.setattr("jobs.ensembles.UNREAD_FOR", timedelta(0))

    def cannot_read(_: FitContext) -> FitResultDocs:
        raise StoreUnavailableError("cannot read sha256/00: Input/output error")

    async def scenario() -> None:
        async with working(deployment, cannot_read) as desk:
            outcome = await outcome_of(desk, make_spec("fashion"))
            attempts = 1 + deployment.settings.max_attempts  # the first one does not count
            assert (outcome.status, outcome.attempt) == ("dead", attempts)

    asyncio.run(asyncio.wait_for(scenario(), 30.0))


def test_a_worker_rests_for_longer_each_time_that_it_cannot_read_in_a_row(
    deployment: Deployment,
    make_spec: MakeSpec,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("jobs.runner.REST_S", (0.01, 0.02))

    def handler(context: FitContext) -> FitResultDocs:
        if context.attempt <= 3:
            raise StoreUnavailableError("cannot read sha256/00: Input/output error")
        return DOCS

    async def scenario() -> None:
        async with working(deployment, handler) as desk:
            for name in ("one", "two"):
                assert (await outcome_of(desk, make_spec(name))).status == "succeeded"

    asyncio.run(scenario())
    told = [message for message in caplog.messages if message.startswith("next fit in")]
    assert [message.split()[3] for message in told] == ["0.01", "0.02", "0.02"] * 2


def test_a_worker_that_cannot_read_leaves_the_fits_to_others_and_exits_when_told_to(
    deployment: Deployment, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.runner.REST_S", (600.0,))
    tried: list[str] = []

    def cannot_read(context: FitContext) -> FitResultDocs:
        tried.append(context.request.name)
        raise StoreUnavailableError("the task cannot be unpacked: Read-only file system")

    async def scenario() -> None:
        async with working(deployment, cannot_read) as desk:
            fit_ids = [(await desk.submit(make_spec(name))).fit_id for name in ("one", "two")]
            await asyncio.to_thread(until, lambda: tried)
            async with working(deployment, lambda _: DOCS):
                for fit_id in fit_ids:
                    async for _ in desk.events(fit_id):
                        pass
        outcomes = [deployment.store.outcome(fit_id) for fit_id in fit_ids]
        assert [outcome and outcome.status for outcome in outcomes] == ["succeeded"] * 2
        assert len(tried) == 1

    asyncio.run(asyncio.wait_for(scenario(), 60.0))  # a tenth of the rest


def test_a_fit_whose_inputs_are_gone_for_good_fails(
    deployment: Deployment, make_spec: MakeSpec
) -> None:
    def handler(_: FitContext) -> FitResultDocs:
        raise NotFoundError("no object blobs/sha256/00")

    async def scenario() -> None:
        async with working(deployment, handler) as desk:
            outcome = await outcome_of(desk, make_spec("fashion"))
            assert (outcome.status, outcome.attempt) == ("failed", 1)
            assert outcome.error is not None
            assert outcome.error.type.endswith(":not-found")

    asyncio.run(scenario())


class DeviceLostError(RuntimeError):
    pass


def test_a_fatal_error_ends_the_worker_and_leaves_the_fit_to_another(
    deployment: Deployment, make_spec: MakeSpec
) -> None:
    def broken(_: FitContext) -> FitResultDocs:
        raise DeviceLostError("an illegal memory access was encountered")

    async def scenario() -> None:
        async with deployment.desk() as desk:
            fit_ids = [(await desk.submit(make_spec(name))).fit_id for name in ("one", "two")]
            with pytest.raises(WorkerBrokenError, match="illegal memory access"):
                await run_worker(
                    broken,
                    deployment.store,
                    deployment.settings,
                    stopping=asyncio.Event(),
                    fatal=(DeviceLostError,),
                )
            states = [deployment.store.state(fit_id) for fit_id in fit_ids]
            assert sorted((state.lost, state.ended) for state in states) == [(0, False), (1, False)]
        async with working(deployment, lambda _: DOCS) as desk:
            for fit_id in fit_ids:
                async for _ in desk.events(fit_id):
                    pass
                outcome = deployment.store.outcome(fit_id)
                assert outcome is not None
                assert outcome.status == "succeeded"

    asyncio.run(scenario())


def test_a_request_of_a_newer_service_is_left_to_a_newer_worker_and_a_damaged_one_ends(
    deployment: Deployment, make_spec: MakeSpec
) -> None:
    store = Path(deployment.settings.store_url.removeprefix("file://"))
    newer, damaged = (deployment.store.create(make_spec(name)).fit_id for name in ("a", "b"))
    path = store / request_key(newer)
    path.chmod(0o644)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"priority": 1}))
    leave_half(store / request_key(damaged))

    async def scenario() -> None:
        async with working(deployment, lambda _: DOCS) as desk:
            async for _ in desk.events(damaged):
                pass
            assert (await outcome_of(desk, make_spec("good"))).status == "succeeded"

    asyncio.run(scenario())
    outcome = deployment.store.outcome(damaged)
    assert outcome is not None
    assert (outcome.status, outcome.attempt) == ("dead", deployment.settings.max_attempts)
    state = deployment.store.state(newer)
    assert (state.attempt, state.ended) == (0, False)
