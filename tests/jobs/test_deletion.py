import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from jobs import store_keys
from jobs.ensembles import EnsembleStore
from jobs.errors import EnsembleDeletedError, FitEndedError, FitNotFoundError, FitsUnfinishedError
from jobs.records import FitId, FitResultDocs, SourceRef
from prompt_store.errors import NotFoundError, PreconditionFailedError
from prompt_store.objects import ObjectStore
from prompt_store.splits import Split
from tests.jobs.conftest import DIGEST, MakeSpec, MakeStore

DOCS = FitResultDocs(b"artifact", {"chosen": "hgprompt"})
ZOO = FitId("zoo", 1)


@pytest.fixture
def zoo(store: EnsembleStore, make_spec: MakeSpec) -> str:
    """An ensemble of one version, which has succeeded; its artifact's digest."""
    return succeed(store, store.create(make_spec("zoo")).fit_id)


def succeed(store: EnsembleStore, fit_id: FitId) -> str:
    outcome = store.publish_result(fit_id, store.claim_attempt(fit_id, "worker"), DOCS)
    assert outcome.artifact_digest is not None
    return outcome.artifact_digest


@pytest.mark.usefixtures("zoo")
def test_a_deleted_ensemble_is_found_by_nobody(store: EnsembleStore, make_store: MakeStore) -> None:
    elsewhere = make_store(max_attempts=3)
    elsewhere.check_living(ZOO)
    store.aliases.move("zoo", "prod", Split.only(1), lambda _: True)
    assert elsewhere.aliases.current("zoo", "prod").number == 1
    store.delete("zoo")
    for each in (store, elsewhere):
        assert each.versions("zoo") == ()
        assert list(each.currents()) == []
        assert each.latest_succeeded("zoo") is None
        assert each.latest_succeeded("zoo", known=ZOO) is None
        assert each.dependents("fashion") == ()
        assert list(each.unfinished()) == []
        assert each.aliases.page("zoo", None, 10).items == ()
        with pytest.raises(NotFoundError):
            each.aliases.current("zoo", "prod")
        for version in (1, 2):
            for look in (each.record, each.cancel, each.check_living):
                with pytest.raises(EnsembleDeletedError, match=f"zoo@{version}"):
                    look(FitId("zoo", version))
        for find in (each.current, each.newest, each.delete):
            with pytest.raises(EnsembleDeletedError, match="zoo"):
                find("zoo")


@pytest.mark.usefixtures("zoo")
def test_a_later_fit_continues_the_numbering_and_brings_nothing_back(
    store: EnsembleStore, make_spec: MakeSpec
) -> None:
    first = store.aliases.move("zoo", "prod", Split.only(1), lambda _: True)[0]
    store.delete("zoo")
    third = store.create(make_spec("zoo")).fit_id
    assert third == FitId("zoo", 3)
    assert store.current("zoo", known=ZOO) == third  # queued: nothing that lives has succeeded
    succeed(store, third)
    fourth = store.create(make_spec("zoo")).fit_id
    assert store.versions("zoo") == (3, 4)
    assert store.current("zoo") == store.current("zoo", known=ZOO) == third
    with pytest.raises(NotFoundError):
        store.aliases.current("zoo", "prod", known=first)
    moved, created = store.aliases.move("zoo", "prod", Split.only(3), lambda now: now is None)
    assert (moved.number, created) == (2, True)
    store.cancel(fourth)
    store.delete("zoo")
    assert store.create(make_spec("zoo")).fit_id == FitId("zoo", 6)
    for version in range(1, 6):
        with pytest.raises(EnsembleDeletedError):
            store.record(FitId("zoo", version))


@pytest.mark.usefixtures("zoo")
def test_an_ensemble_with_unfinished_fits_is_not_deleted(
    store: EnsembleStore, make_spec: MakeSpec
) -> None:
    queued, running = (store.create(make_spec("zoo")).fit_id for _ in range(2))
    store.claim_attempt(running, "worker")
    with pytest.raises(FitsUnfinishedError, match="zoo@2, zoo@3; cancel them first") as refused:
        store.delete("zoo", lambda _: False)
    assert refused.value.fits == ("zoo@2", "zoo@3")
    store.cancel(queued)
    with pytest.raises(FitsUnfinishedError, match="running: zoo@3; "):
        store.delete("zoo")
    assert store.versions("zoo") == (1, 2, 3)
    store.cancel(running)
    store.delete("zoo")
    assert store.versions("zoo") == ()


def test_what_a_worker_finishes_late_brings_nothing_back(
    store: EnsembleStore, objects: ObjectStore, make_spec: MakeSpec
) -> None:
    fit_id = store.create(make_spec("zoo")).fit_id
    claimed = store.claim_attempt(fit_id, "worker")
    store.cancel(fit_id)
    store.delete("zoo")
    with pytest.raises(FitEndedError):
        store.publish_result(fit_id, claimed, DOCS)
    with pytest.raises(FitEndedError):
        store.claim_attempt(fit_id, "worker")
    objects.put_new(store_keys.open_key(fit_id), b"{}")  # as if the cancel had stopped before it
    assert list(store.unfinished()) == []
    assert store.versions("zoo") == ()


@pytest.mark.usefixtures("zoo")
def test_a_deletion_replaces_only_what_it_says(store: EnsembleStore, make_spec: MakeSpec) -> None:
    seen: list[str | None] = []

    def never(current: str | None) -> bool:
        seen.append(current)
        return False

    failed = store.create(make_spec("ark")).fit_id
    store.cancel(failed)
    for name in ("zoo", "ark"):
        with pytest.raises(PreconditionFailedError, match=f"ensemble {name} is"):
            store.delete(name, never)
        assert store.versions(name) == (1,)
    zoo = store.outcome(ZOO)
    assert zoo is not None
    assert seen == [zoo.artifact_digest, "ark@1"]
    store.delete("zoo", lambda current: current == zoo.artifact_digest)


def test_of_many_deletions_at_once_one_counts(
    zoo: str, make_store: MakeStore, store: EnsembleStore
) -> None:
    del zoo

    def delete(_: int) -> bool:
        try:
            make_store(max_attempts=3).delete("zoo")
        except EnsembleDeletedError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(delete, range(16))) == 1
    assert store.versions("zoo") == ()


def test_a_fit_asked_for_during_a_deletion_is_seen_by_it_or_comes_after_it(
    make_store: MakeStore, make_spec: MakeSpec
) -> None:
    def delete(name: str, delay_s: float) -> bool:
        time.sleep(delay_s)
        try:
            make_store(max_attempts=3).delete(name)
        except FitsUnfinishedError:
            return False
        return True

    store = make_store(max_attempts=3)
    for round_ in range(40):
        name = f"zoo{round_}"
        store.cancel(store.create(make_spec(name)).fit_id)
        with ThreadPoolExecutor(2) as pool:
            asked = pool.submit(make_store(max_attempts=3).create, make_spec(name))
            deleting = pool.submit(delete, name, round_ / 2000)
            fit_id, deleted = asked.result().fit_id, deleting.result()
        assert fit_id.version == (3 if deleted else 2)
        assert store.versions(name) == ((3,) if deleted else (1, 2))
        assert fit_id in set(store.unfinished())
        succeed(store, fit_id)
        assert store.current(name) == fit_id


@pytest.mark.usefixtures("zoo")
def test_a_number_that_a_request_lost_to_a_deletion_is_run_by_nobody(
    store: EnsembleStore,
    objects: ObjectStore,
    make_spec: MakeSpec,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before(store_keys.request_key(FitId("zoo", 2)), lambda: store.delete("zoo"), monkeypatch)
    assert store.create(make_spec("zoo")).fit_id == FitId("zoo", 3)
    lost = FitId("zoo", 2)
    assert objects.size(store_keys.open_key(lost)) is not None
    with pytest.raises(FitNotFoundError):
        store.claim_attempt(lost, "worker")
    assert list(store.unfinished()) == [FitId("zoo", 3)]
    assert objects.size(store_keys.open_key(lost)) is None
    assert store.dependents("fashion") == (FitId("zoo", 3),)


@pytest.mark.usefixtures("zoo")
def test_a_deletion_that_loses_its_number_to_a_request_is_refused(
    store: EnsembleStore, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = store_keys.request_key(FitId("zoo", 2))
    before(key, lambda: store.create(make_spec("zoo")), monkeypatch)
    with pytest.raises(FitsUnfinishedError, match="zoo@2"):
        store.delete("zoo")
    assert store.versions("zoo") == (1, 2)


def test_a_prompt_is_not_held_by_a_request_that_lost_its_number_to_one_of_other_prompts(
    store: EnsembleStore, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = make_spec("zoo").model_copy(
        update={"sources": (SourceRef(name="digits", version=1, digest=DIGEST),)}
    )
    before(store_keys.request_key(ZOO), lambda: store.create(other), monkeypatch)
    later = store.create(make_spec("zoo")).fit_id
    assert store.dependents("digits") == (ZOO,)
    assert store.dependents("fashion") == (later,) == (FitId("zoo", 2),)


def before(key: str, act: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Act once, just before somebody tries to create a key."""
    put_new = ObjectStore.put_new
    acted: list[str] = []

    def put_after(self: ObjectStore, wanted: str, data: bytes) -> bool:
        if wanted == key and not acted:
            acted.append(key)
            act()
        return put_new(self, wanted, data)

    monkeypatch.setattr(ObjectStore, "put_new", put_after)
