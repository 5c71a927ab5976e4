from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.responses import JSONResponse

from jobs.ensembles import EnsembleStore
from jobs.records import FitError, FitId, FitSpec
from prompt_store.errors import CorruptDocumentError
from prompt_store.objects import ObjectStore
from service.oip.repository import RepositoryIndex

PARTS = ("request", "outcome")


@pytest.fixture
def reads(objects: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Keys read from the store, which goes on working."""
    keys: list[str] = []
    get = objects.get

    def counted(key: str) -> bytes:
        keys.append(key)
        return get(key)

    monkeypatch.setattr(objects, "get", counted)
    return keys


def states(index: RepositoryIndex, *, ready_only: bool = False) -> list[tuple[str, str, str, str]]:
    keys = ("name", "version", "state", "reason")
    return [tuple(each[key] for key in keys) for each in index.entries(ready_only=ready_only)]


def test_every_version_has_a_state_and_an_end_is_read_once(
    ensembles: EnsembleStore,
    publish: Callable[..., tuple[FitId, str]],
    make_spec: Callable[..., FitSpec],
    reads: list[str],
) -> None:
    index = RepositoryIndex(ensembles)
    assert states(index) == []
    publish("zoo")
    failing = ensembles.create(make_spec("zoo")).fit_id
    publish("ark")
    later = ("zoo", "2", "UNAVAILABLE", "the fit is unfinished")
    ready = [("ark", "1", "READY", ""), ("zoo", "1", "READY", "")]
    assert states(index) == [*ready, later]
    assert states(index, ready_only=True) == ready

    attempt = ensembles.claim_attempt(failing, "test-worker")
    error = FitError(type="urn:hgprompt:problem:x", title="No", detail="no")
    ensembles.publish_failure(failing, attempt, error)
    failed = ("zoo", "2", "UNAVAILABLE", "the fit is failed")
    assert index.ready("zoo") == (1,)
    assert states(index) == [*ready, failed]
    reads.clear()
    assert states(index) == [*ready, failed]
    assert states(index, ready_only=True) == ready
    assert reads == []  # listings alone
    publish("zoo")
    reads.clear()
    assert states(index) == [*ready, failed, ("zoo", "3", "READY", "")]
    assert reads == [f"ensembles/zoo/versions/00000003/{part}.json" for part in PARTS]


@pytest.mark.parametrize("part", ["request", "outcome"])
def test_a_damaged_ensemble_takes_no_other_one_with_it(
    ensembles: EnsembleStore,
    publish: Callable[..., tuple[FitId, str]],
    make_spec: Callable[..., FitSpec],
    store_url: str,
    part: str,
) -> None:
    publish("ark")
    if part == "outcome":
        publish("zoo")
    else:
        ensembles.create(make_spec("zoo"))
    path = Path(store_url.removeprefix("file://")) / f"ensembles/zoo/versions/00000001/{part}.json"
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:20])

    assert states(RepositoryIndex(ensembles)) == [("ark", "1", "READY", "")]
    with pytest.raises(CorruptDocumentError, match=r"zoo.*1"):
        RepositoryIndex(ensembles).ready("zoo")


def test_what_was_deleted_is_left_out(
    ensembles: EnsembleStore, publish: Callable[..., tuple[FitId, str]]
) -> None:
    index = RepositoryIndex(ensembles)
    publish("zoo")
    publish("ark")
    ready = [("ark", "1", "READY", ""), ("zoo", "1", "READY", "")]
    assert states(index) == ready
    ensembles.delete("zoo")
    assert states(index) == ready[:1]
    publish("zoo")
    assert states(index) == [*ready[:1], ("zoo", "3", "READY", "")]


def test_what_was_deleted_is_forgotten(
    ensembles: EnsembleStore, publish: Callable[..., tuple[FitId, str]]
) -> None:
    index = RepositoryIndex(ensembles)
    publish("zoo")
    publish("ark")
    assert len(states(index)) == 2
    ensembles.delete("zoo")
    states(index)
    assert index._ends == {"ark": {1: "succeeded"}}
    publish("zoo")
    assert index.ready("zoo") == (3,)
    assert index._ends["zoo"] == {3: "succeeded"}


def test_more_names_than_a_page_of_the_listing(
    ensembles: EnsembleStore, make_spec: Callable[..., FitSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.oip.repository._PAGE", 2)
    for count, name in enumerate("abcde"):
        ensembles.create(make_spec(name))
        found = [name for name, *_ in states(RepositoryIndex(ensembles))]
        assert found == list("abcde")[: count + 1]


@pytest.mark.anyio
async def test_the_index_is_not_written_by_json(
    open_client: Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]],
    ensembles: EnsembleStore,
    publish: Callable[..., tuple[FitId, str]],
    make_spec: Callable[..., FitSpec],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It keeps the interpreter from the event loop, on whichever thread, 20 times as long."""
    publish("zoo")
    ensembles.create(make_spec("ark"))
    written: list[Any] = []
    render = JSONResponse.render

    def watched(self: JSONResponse, content: Any) -> bytes:
        written.append(content)
        return render(self, content)

    monkeypatch.setattr(JSONResponse, "render", watched)
    async with open_client() as client:
        answer = await client.post("/v2/repository/index", json={})
        ready = await client.post("/v2/repository/index", json={"ready": True})
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == RepositoryIndex(ensembles).entries()
    assert [each["name"] for each in ready.json()] == ["zoo"]
    assert written == []
