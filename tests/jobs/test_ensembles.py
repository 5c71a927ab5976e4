from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from jobs import store_keys
from jobs.ensembles import EnsembleStore
from jobs.errors import FenceLostError, FitEndedError, FitHeldError, FitNotFoundError
from jobs.records import FitAttempt, FitError, FitId, FitResultDocs, FitState
from prompt_store.blobs import BlobStore
from prompt_store.clock import utc_now
from prompt_store.errors import CorruptDocumentError
from prompt_store.objects import ObjectStore
from tests.jobs.conftest import Damage, MakeSpec, MakeStore, ReopenDamaged

DOCS = FitResultDocs(b"artifact", {"chosen": "hgprompt"})
MISSING = FitId("fashion", 9)


def test_a_request_is_read_as_it_was_made(store: EnsembleStore, make_spec: MakeSpec) -> None:
    request = store.create(make_spec("fashion"))
    assert request.fit_id == FitId("fashion", 1)
    assert store.request(request.fit_id) == request
    assert store.create(make_spec("fashion")).fit_id == FitId("fashion", 2)


def test_of_many_at_once_each_gets_a_version(store: EnsembleStore, make_spec: MakeSpec) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda n: store.create(make_spec("fashion", seed=n)), range(16)))
    assert sorted(request.version for request in made) == list(range(1, 17))
    for request in made:
        assert store.request(request.fit_id).seed == request.seed


KEY, OTHER_KEY = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"


def key_digest(number: int) -> str:
    return f"sha256:{number:064d}"


def test_one_idempotency_key_makes_one_fit(store: EnsembleStore, make_spec: MakeSpec) -> None:
    """Though the first try was only slow when the second one took over."""
    store.create(make_spec("fashion"), OTHER_KEY)
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda n: store.create(make_spec("fashion", seed=n), KEY), range(16)))
    assert {request.fit_id for request in made} == {FitId("fashion", 2)}
    assert store.versions("fashion") == (1, 2)
    assert store.create(make_spec("fashion")).version == 3
    store.cancel(FitId("fashion", 1))
    store.cancel(FitId("fashion", 2))
    store.cancel(FitId("fashion", 3))
    store.delete("fashion")
    assert store.create(make_spec("fashion"), KEY) == made[0]


def test_a_damaged_request_keeps_no_other_key_from_being_used(
    store: EnsembleStore, make_spec: MakeSpec, reopen_damaged: ReopenDamaged
) -> None:
    damaged = store.create(make_spec("fashion"), OTHER_KEY).fit_id
    store.claim_attempt(damaged, "worker")
    afresh = reopen_damaged(damaged)
    assert afresh.create(make_spec("fashion"), KEY).version == 2
    assert afresh.create(make_spec("fashion"), KEY).version == 2
    with pytest.raises(CorruptDocumentError, match="fashion@1 is damaged"):
        afresh.create(make_spec("fashion"), OTHER_KEY)


class CountingStore(ObjectStore):
    """Counts what is read, and the keys that listings go through."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.read: list[str] = []
        self.listed = 0

    def get(self, key: str) -> bytes:
        self.read.append(key)
        return super().get(key)

    def list(self, prefix: str, *, start_after: str = "", limit: int | None = None) -> list[str]:
        found = super().list(prefix, start_after=start_after, limit=limit)
        self.listed += len(found)
        return found


def test_another_version_costs_no_look_at_those_before(
    store: EnsembleStore, make_spec: MakeSpec, tmp_path: Path
) -> None:
    for number in range(30):
        store.claim_attempt(store.create(make_spec("fashion"), key_digest(number)).fit_id, "worker")
    counting = CountingStore(tmp_path / "store")
    afresh = EnsembleStore(counting, BlobStore(counting), utc_now)
    assert afresh.create(make_spec("fashion"), KEY).version == 31
    assert counting.read == [store_keys.request_key(FitId("fashion", 30))]
    assert afresh.create(make_spec("fashion"), key_digest(7)).version == 8
    assert afresh.request_with("fashion", key_digest(8)) == store.request(FitId("fashion", 9))
    assert afresh.request_with("other", key_digest(8)) is None
    assert len(afresh.versions("fashion")) == 31
    assert len(counting.read) == 4  # the tail twice, and the two that were found
    assert counting.listed == 3  # the marks of three keys


def test_the_folder_of_a_writer_that_was_killed_is_no_version(
    store: EnsembleStore, make_spec: MakeSpec, tmp_path: Path
) -> None:
    store.create(make_spec("fashion"))
    versions = tmp_path / "store" / store_keys.versions_folder("fashion")
    (versions / "00000002").mkdir()
    (versions / "not a number").mkdir()
    (versions / "notes").mkdir()
    assert store.versions("fashion") == (1,)
    assert store.create(make_spec("fashion"), KEY).version == 2


def test_a_key_whose_writer_lost_the_number_to_another_is_free(
    store: EnsembleStore, objects: ObjectStore, make_spec: MakeSpec
) -> None:
    """Or was killed before it could write its request."""
    store.create(make_spec("fashion"), OTHER_KEY)
    for version in (1, 2):
        mark = store_keys.idempotency_key(KEY, FitId("fashion", version))
        objects.put_new(mark, b"{}")
    assert store.request_with("fashion", KEY) is None
    assert store.create(make_spec("fashion"), KEY).version == 2


def test_of_many_claims_at_once_the_newest_is_the_fence(
    make_store: MakeStore, make_spec: MakeSpec
) -> None:
    store = make_store(max_attempts=100)
    fit_id = store.create(make_spec("fashion")).fit_id

    def claim(_: int) -> int | None:
        try:
            return store.claim_attempt(fit_id, "worker").attempt
        except FitHeldError:
            return None

    with ThreadPoolExecutor(8) as pool:
        claimed = [number for number in pool.map(claim, range(24)) if number is not None]
    assert sorted(claimed) == list(range(1, len(claimed) + 1))
    for number in sorted(claimed)[:-1]:
        with pytest.raises(FenceLostError, match=f"attempt {number} of fashion@1"):
            store.publish_failure(fit_id, attempt(number), failure())
    assert store.publish_failure(fit_id, attempt(max(claimed)), failure()).status == "failed"


def test_of_many_ends_at_once_one_counts(store: EnsembleStore, make_spec: MakeSpec) -> None:
    fit_id = store.create(make_spec("fashion")).fit_id
    claimed = store.claim_attempt(fit_id, "worker")

    def end(number: int) -> bool:
        try:
            if number % 2:
                store.cancel(fit_id)
            else:
                store.publish_result(fit_id, claimed, replace(DOCS, artifact=bytes([number])))
        except FitEndedError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(end, range(16))) == 1


def test_a_success_is_published_with_its_documents(
    store: EnsembleStore, objects: ObjectStore, make_spec: MakeSpec
) -> None:
    fit_id = store.create(make_spec("fashion")).fit_id
    outcome = store.publish_result(fit_id, store.claim_attempt(fit_id, "worker"), DOCS)
    assert outcome.artifact_digest is not None
    assert outcome.artifact_digest.startswith("sha256:c7c5c1d70c5dec4416")
    assert store.result(outcome) == DOCS.result
    assert store.outcome(fit_id) == outcome
    assert not objects.list(store_keys.OPEN_FOLDER)


def test_publishing_the_same_outcome_again_is_harmless(
    store: EnsembleStore, make_spec: MakeSpec
) -> None:
    fit_id = store.create(make_spec("fashion")).fit_id
    outcome = store.publish_result(fit_id, store.claim_attempt(fit_id, "worker"), DOCS)
    store.publish(fit_id, 1, outcome)
    assert store.outcome(fit_id) == outcome


def test_a_result_that_was_recorded_although_it_seemed_not_to_be_is_found_recorded(
    store: EnsembleStore, make_spec: MakeSpec
) -> None:
    """The worker tries again with the documents it has, later."""
    fit_id = store.create(make_spec("fashion")).fit_id
    attempt = store.claim_attempt(fit_id, "worker")
    outcome = store.publish_result(fit_id, attempt, DOCS)
    assert store.publish_result(fit_id, attempt, DOCS) == outcome
    with pytest.raises(FitEndedError, match="already has an outcome"):
        store.publish_result(fit_id, attempt, replace(DOCS, artifact=b"another"))
    assert store.outcome(fit_id) == outcome


def test_a_fit_is_dead_once_too_many_attempts_were_lost(
    make_store: MakeStore, make_spec: MakeSpec
) -> None:
    store = make_store(max_attempts=2)
    fit_id = store.create(make_spec("fashion")).fit_id
    first = store.claim_attempt(fit_id, "worker")
    store.claim_attempt(fit_id, "worker")
    with pytest.raises(FitEndedError, match="dead after 2 lost attempts"):
        store.claim_attempt(fit_id, "worker")
    outcome = store.outcome(fit_id)
    assert outcome is not None
    assert (outcome.status, outcome.attempt) == ("dead", 2)
    with pytest.raises(FenceLostError):
        store.publish_result(fit_id, first, DOCS)


def test_a_fit_whose_last_attempt_is_damaged_ends_all_the_same(
    make_store: MakeStore, make_spec: MakeSpec, damage: Damage
) -> None:
    store = make_store(max_attempts=1)
    dead, cancelled = (store.create(make_spec("fashion")).fit_id for _ in range(2))
    for fit_id in (dead, cancelled):
        store.claim_attempt(fit_id, "worker")
        damage(store_keys.attempt_key(fit_id, 1))
    with pytest.raises(FitEndedError, match="dead after 1 lost attempts"):
        store.claim_attempt(dead, "worker")
    store.cancel(cancelled)
    outcomes = [store.outcome(fit_id) for fit_id in (dead, cancelled)]
    assert [outcome and outcome.status for outcome in outcomes] == ["dead", "cancelled"]
    assert [outcome and outcome.started_at for outcome in outcomes] == [None, None]
    assert list(store.unfinished()) == []


def test_an_attempt_that_was_handed_back_is_not_lost(
    make_store: MakeStore, make_spec: MakeSpec
) -> None:
    store = make_store(max_attempts=1)
    fit_id = store.create(make_spec("fashion")).fit_id
    for number in (1, 2, 3):
        claimed = store.claim_attempt(fit_id, "worker")
        assert claimed.attempt == number
        store.release_attempt(fit_id, claimed)
    assert store.publish_result(fit_id, store.claim_attempt(fit_id, "worker"), DOCS).attempt == 4


def test_a_fit_whose_inputs_can_never_be_read_is_dead_after_an_hour(
    objects: ObjectStore, make_spec: MakeSpec
) -> None:
    now = datetime(2026, 1, 2, tzinfo=UTC)
    store = EnsembleStore(objects, BlobStore(objects), lambda: now, max_attempts=2)
    fit_id = store.create(make_spec("fashion")).fit_id
    store.release_attempt(fit_id, store.claim_attempt(fit_id, "told to exit"))
    now += timedelta(days=1)
    for _ in range(4):
        store.release_unread(fit_id, store.claim_attempt(fit_id, "worker"))
        now += timedelta(minutes=15)
    assert store.state(fit_id).lost == 0
    for lost in (1, 2):
        store.release_unread(fit_id, store.claim_attempt(fit_id, "worker"))
        assert store.state(fit_id).lost == lost
    with pytest.raises(FitEndedError, match="dead after 2 lost attempts"):
        store.claim_attempt(fit_id, "worker")


def test_a_cancelled_fit_can_be_neither_claimed_nor_finished_nor_cancelled(
    store: EnsembleStore, make_spec: MakeSpec
) -> None:
    fit_id = store.create(make_spec("fashion")).fit_id
    claimed = store.claim_attempt(fit_id, "worker")
    outcome = store.cancel(fit_id)
    assert (outcome.status, outcome.started_at) == ("cancelled", claimed.started_at)
    with pytest.raises(FitEndedError):
        store.claim_attempt(fit_id, "worker")
    with pytest.raises(FitEndedError):
        store.publish_result(fit_id, claimed, DOCS)
    with pytest.raises(FitEndedError):
        store.cancel(fit_id)
    assert store.outcome(fit_id) == outcome


def test_a_fit_that_is_cancelled_while_it_is_claimed_is_not_run(
    store: EnsembleStore, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit_id = store.create(make_spec("fashion")).fit_id
    look = store.state

    def cancelled_after_a_look(each: FitId) -> FitState:
        found = look(each)
        monkeypatch.undo()
        store.cancel(each)
        return found

    monkeypatch.setattr(store, "state", cancelled_after_a_look)
    with pytest.raises(FitEndedError, match="ended while it was being claimed"):
        store.claim_attempt(fit_id, "worker")


def test_a_fit_that_does_not_exist_can_be_neither_claimed_nor_cancelled(
    store: EnsembleStore,
) -> None:
    with pytest.raises(FitNotFoundError, match="fashion@9"):
        store.claim_attempt(MISSING, "worker")
    with pytest.raises(FitNotFoundError, match="fashion@9"):
        store.cancel(MISSING)
    assert store.outcome(MISSING) is None


def test_a_crash_before_the_outcome_is_marked_leaves_nothing_to_sweep(
    store: EnsembleStore, objects: ObjectStore, make_spec: MakeSpec
) -> None:
    fit_id = store.create(make_spec("fashion")).fit_id
    assert list(store.unfinished()) == [fit_id]
    store.cancel(fit_id)
    assert not objects.list(store_keys.OPEN_FOLDER)
    objects.put_new(store_keys.open_key(fit_id), b"{}")  # as if the cancel had stopped before it
    assert list(store.unfinished()) == []
    assert not objects.list(store_keys.OPEN_FOLDER)


class WatchingStore(ObjectStore):
    """Notes which keys are there when a request is about to be written."""

    watched: tuple[str, ...] = ()
    there: tuple[str, ...] = ()

    def put_new(self, key: str, data: bytes) -> bool:
        if key.endswith("/request.json"):
            self.there = tuple(each for each in self.watched if self.size(each) is not None)
        return super().put_new(key, data)


def test_no_request_is_there_before_its_marks(make_spec: MakeSpec, tmp_path: Path) -> None:
    """A crash between the two must leave no fit that is not swept, listed or protected."""
    objects = WatchingStore(tmp_path)
    fit_id = FitId("fashion", 1)
    objects.watched = (
        store_keys.name_key("fashion"),
        store_keys.open_key(fit_id),
        store_keys.prompt_key("fashion", fit_id),
        store_keys.idempotency_key(KEY, fit_id),
    )
    EnsembleStore(objects, BlobStore(objects), utc_now).create(make_spec("fashion"), KEY)
    assert objects.there == objects.watched


def test_a_crash_between_the_marks_and_the_request_leaves_no_fit(
    store: EnsembleStore, objects: ObjectStore, make_spec: MakeSpec
) -> None:
    fit_id = FitId("fashion", 1)
    objects.put_new(store_keys.name_key("fashion"), b"{}")
    objects.put_new(store_keys.open_key(fit_id), b"{}")
    objects.put_new(store_keys.prompt_key("digits", fit_id), b"{}")
    assert list(store.unfinished()) == []
    assert store.dependents("digits") == ()
    with pytest.raises(FitNotFoundError):
        store.current("fashion")
    assert store.create(make_spec("fashion")).fit_id == fit_id
    assert list(store.unfinished()) == [fit_id]


def attempt(number: int) -> FitAttempt:
    return FitAttempt(attempt=number, worker="worker", started_at=datetime(2026, 1, 2, tzinfo=UTC))


def failure() -> FitError:
    return FitError(type="urn:hgprompt:problem:x", title="X", detail="x")
