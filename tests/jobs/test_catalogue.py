import logging
from pathlib import Path

import pytest

from jobs import store_keys
from jobs.ensembles import EnsembleStore
from jobs.errors import FitNotFoundError
from jobs.records import FitError, FitId, FitResultDocs
from prompt_store.errors import CorruptDocumentError
from prompt_store.objects import ObjectStore
from tests.jobs.conftest import Damage, MakeSpec, ReopenDamaged

DOCS = FitResultDocs(b"artifact", {"chosen": "hgprompt"})


def succeed(store: EnsembleStore, fit_id: FitId) -> None:
    store.publish_result(fit_id, store.claim_attempt(fit_id, "worker"), DOCS)


def test_the_bare_name_means_the_newest_success(store: EnsembleStore, make_spec: MakeSpec) -> None:
    first, second, third = (store.create(make_spec("fashion")).fit_id for _ in range(3))
    assert store.current("fashion") == third
    assert store.latest_succeeded("fashion") is None
    succeed(store, first)
    succeed(store, second)
    store.cancel(third)
    fourth = store.create(make_spec("fashion")).fit_id
    assert store.current("fashion") == store.latest_succeeded("fashion") == second
    assert store.newest("fashion") == fourth
    assert store.versions("fashion") == (1, 2, 3, 4)


def test_a_name_that_begins_another_is_another(store: EnsembleStore, make_spec: MakeSpec) -> None:
    store.create(make_spec("fashion-2"))
    assert store.versions("fashion") == ()
    with pytest.raises(FitNotFoundError, match="no ensemble 'fashion'"):
        store.current("fashion")


def test_names_are_listed_in_pages(store: EnsembleStore, make_spec: MakeSpec) -> None:
    for name in ("c", "a", "b", "a"):
        store.create(make_spec(name))
    assert store.names(limit=2) == ["a", "b"]
    assert store.names(start_after="b", limit=2) == ["c"]
    assert store.names(start_after="c") == []


def test_a_record_tells_what_became_of_the_request(
    store: EnsembleStore, make_spec: MakeSpec
) -> None:
    request = store.create(make_spec("fashion"))
    fit_id = request.fit_id
    assert store.record(fit_id).status == "queued"
    claimed = store.claim_attempt(fit_id, "worker")
    assert store.record(fit_id).status == "running"
    store.release_attempt(fit_id, claimed)
    assert store.record(fit_id).status == "queued"
    succeed(store, fit_id)
    record = store.record(fit_id, with_result=True)
    assert (record.status, record.attempt, record.result) == ("succeeded", 2, DOCS.result)
    assert record.outcome is not None
    assert record.digest == record.outcome.artifact_digest
    assert record.task == request.task
    assert store.record(fit_id).result is None


def test_dependents_of_a_prompt_are_those_that_serve_or_may(
    store: EnsembleStore, make_spec: MakeSpec
) -> None:
    served, failed, running = (store.create(make_spec(name)).fit_id for name in ("a", "b", "c"))
    succeed(store, served)
    error = FitError(type="urn:hgprompt:problem:x", title="X", detail="x")
    store.publish_failure(failed, store.claim_attempt(failed, "worker"), error)
    assert store.dependents("fashion") == (served, running)
    assert store.dependents("digits") == ()


@pytest.mark.parametrize("method", ["none", "vpt"])
def test_what_is_made_of_no_source_depends_on_none(
    store: EnsembleStore, objects: ObjectStore, make_spec: MakeSpec, method: str
) -> None:
    plain = store.create(make_spec("a").model_copy(update={"method": method})).fit_id
    of_sources = store.create(make_spec("b")).fit_id
    assert store.dependents("fashion") == (of_sources,)
    objects.put_new(store_keys.prompt_key("fashion", plain), b"{}")  # as it was marked before
    assert store.dependents("fashion") == (of_sources,)
    succeed(store, plain)
    assert store.dependents("fashion") == (of_sources,)
    assert [source.name for source in store.record(plain).sources] == ["fashion"]


def test_a_damaged_request_takes_no_other_version_with_it(
    store: EnsembleStore,
    make_spec: MakeSpec,
    reopen_damaged: ReopenDamaged,
    caplog: pytest.LogCaptureFixture,
) -> None:
    gone = store.create(make_spec("fashion")).fit_id
    succeed(store, gone)
    store.delete("fashion")
    served, damaged, other = (store.create(make_spec(n)).fit_id for n in ("fashion",) * 2 + ("a",))
    succeed(store, served)
    store.claim_attempt(damaged, "worker")
    afresh = reopen_damaged(damaged)
    assert afresh.current("fashion") == served
    assert "the record of ensemble version fashion@4 is damaged" in caplog.text
    assert list(afresh.currents()) == [other, served]
    assert afresh.versions("fashion") == (3, 4)
    assert afresh.record(served).status == "succeeded"
    with pytest.raises(FitNotFoundError, match="fashion@1 has been deleted"):
        afresh.record(gone)
    with pytest.raises(CorruptDocumentError, match="record of ensemble version fashion@4 is dam"):
        afresh.record(damaged)
    assert afresh.dependents("fashion") == (other, served, damaged)
    assert afresh.cancel(damaged).status == "cancelled"
    assert afresh.create(make_spec("fashion")).since == 2


def test_a_damaged_outcome_takes_no_other_version_with_it(
    store: EnsembleStore,
    objects: ObjectStore,
    make_spec: MakeSpec,
    damage: Damage,
    caplog: pytest.LogCaptureFixture,
) -> None:
    served, damaged = (store.create(make_spec("fashion")).fit_id for _ in range(2))
    succeed(store, served)
    succeed(store, damaged)
    plain = store.create(make_spec("fashion").model_copy(update={"method": "none"})).fit_id
    objects.put_new(store_keys.prompt_key("fashion", plain), b"{}")  # as it was marked before
    succeed(store, plain)
    for fit_id in (damaged, plain):
        damage(store_keys.outcome_key(fit_id))
    assert store.current("fashion") == served
    assert store.latest_succeeded("fashion", known=served) == served
    assert "passed over: the stored document ensembles/fashion/versions/00000002" in caplog.text
    assert list(store.currents()) == [served]
    assert store.dependents("fashion") == (served, damaged)
    with pytest.raises(CorruptDocumentError):
        store.record(damaged)
    store.delete("fashion")
    assert store.dependents("fashion") == ()


def test_files_that_are_no_documents_are_skipped(
    store: EnsembleStore, make_spec: MakeSpec, tmp_path: Path
) -> None:
    """As those that a file manager leaves in every folder that it shows."""
    fit_id = store.create(make_spec("fashion")).fit_id
    store.release_attempt(fit_id, store.claim_attempt(fit_id, "worker"))
    folders = [path for path in (tmp_path / "store").rglob("*") if path.is_dir()]
    assert len(folders) > 8
    for folder in folders:
        (folder / ".DS_Store").write_bytes(b"x")
    copy = tmp_path / "store" / store_keys.versions_folder("fashion") / "copy"
    copy.mkdir()
    (copy / "request.json").write_bytes(b"{}")
    assert list(store.unfinished()) == [fit_id]
    assert store.dependents("fashion") == (fit_id,)
    assert store.names(limit=1) == ["fashion"]
    assert list(store.currents()) == [fit_id]
    assert (store.state(fit_id).attempt, store.state(fit_id).lost) == (1, 0)
    assert store.create(make_spec("fashion")).version == 2


def test_what_may_be_a_damaged_deletion_brings_nothing_back(
    store: EnsembleStore,
    make_spec: MakeSpec,
    reopen_damaged: ReopenDamaged,
    caplog: pytest.LogCaptureFixture,
) -> None:
    succeed(store, store.create(make_spec("fashion")).fit_id)
    store.delete("fashion")
    other = store.create(make_spec("a")).fit_id
    afresh = reopen_damaged(FitId("fashion", 2))
    with caplog.at_level(logging.ERROR, logger="jobs"):
        assert list(afresh.currents()) == [other]
    assert "left out: the record of ensemble version fashion@2 is damaged" in caplog.text
    for look in (afresh.current, afresh.versions, afresh.delete):
        with pytest.raises(CorruptDocumentError, match="fashion@2"):
            look("fashion")
