import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from backbones.info import LoadedBackbone
from jobs.ensembles import EnsembleStore
from jobs.records import FitError, FitId, FitRequest, FitSpec
from jobs.store_keys import request_key
from prompt_store.errors import StoreUnavailableError
from tests.service.conftest import damage_document

pytestmark = pytest.mark.anyio

Publish = Callable[..., tuple[FitId, str]]


@pytest.fixture
async def wanted(
    client: httpx.AsyncClient, make_prompt: Callable[..., bytes], make_task: Callable[..., bytes]
) -> dict[str, object]:
    """A request that the service accepts."""
    await client.put("/v1/prompts/fashion", content=make_prompt(1))
    await client.put("/v1/tasks/animals", content=make_task())
    return {"name": "zoo", "task": "animals", "sources": ["fashion"], "seed": 7}


def slug(response: httpx.Response) -> str:
    assert response.headers["content-type"] == "application/problem+json"
    return response.json()["type"].removeprefix("urn:hgprompt:problem:")


async def test_a_fit_is_accepted_and_shown(
    client: httpx.AsyncClient, wanted: dict[str, object], loaded: LoadedBackbone
) -> None:
    accepted = await client.post("/v1/ensembles", json=wanted)
    assert accepted.status_code == 202
    record = accepted.json()
    assert (record["name"], record["version"], record["status"]) == ("zoo", 1, "queued")
    assert (record["seed"], record["method"], record["digest"]) == (7, "hgprompt", None)
    assert record["backbone_digest"] == loaded.info.digest
    assert record["options"]["validation_fraction"] == 0.3
    assert accepted.headers["location"] == "/v1/ensembles/zoo?version=1"
    shown = (await client.get(accepted.headers["location"])).json()
    assert {key: shown[key] for key in record if key != "progress"} == {
        key: record[key] for key in record if key != "progress"
    }
    assert (await client.get("/v1/ensembles/zoo")).json()["version"] == 1


async def test_posting_a_name_again_refits_it_while_the_last_good_version_stands(
    client: httpx.AsyncClient, wanted: dict[str, object], publish: Publish
) -> None:
    _, digest = publish("zoo", {"weights": {"digits": 1.0}})
    refit = (await client.post("/v1/ensembles", json=wanted)).json()
    assert (refit["version"], refit["status"]) == (2, "queued")
    bare = (await client.get("/v1/ensembles/zoo")).json()
    assert (bare["version"], bare["status"], bare["digest"]) == (1, "succeeded", digest)
    assert bare["result"] == {"weights": {"digits": 1.0}}
    assert bare["finished_at"] >= bare["started_at"] >= bare["created_at"]
    versions = (await client.get("/v1/ensembles/zoo/versions")).json()["items"]
    assert [(v["version"], v["status"]) for v in versions] == [(1, "succeeded"), (2, "queued")]
    page = (await client.get("/v1/ensembles")).json()
    assert [(item["name"], item["version"]) for item in page["items"]] == [("zoo", 1)]
    assert page["items"][0]["result"] is None


async def test_a_replayed_request_gets_the_first_answer_and_makes_one_fit(
    client: httpx.AsyncClient, wanted: dict[str, object], ensembles: EnsembleStore
) -> None:
    headers = {"Idempotency-Key": "k1"}
    first = await client.post("/v1/ensembles", json=wanted, headers=headers)
    again = await client.post("/v1/ensembles", json=wanted, headers=headers)
    assert (again.status_code, again.content) == (first.status_code, first.content)
    assert again.headers["location"] == first.headers["location"]
    assert again.headers["idempotency-replayed"] == "true"
    assert ensembles.versions("zoo") == (1,)
    changed = {**wanted, "seed": 8}
    other = await client.post("/v1/ensembles", json=changed, headers=headers)
    assert (other.status_code, slug(other)) == (422, "idempotency-key-reused")
    assert other.json()["field"] == "Idempotency-Key"
    fresh = await client.post("/v1/ensembles", json=wanted, headers={"Idempotency-Key": "k2"})
    assert fresh.json()["version"] == 2
    too_long = {"Idempotency-Key": "k" * 256}
    assert (await client.post("/v1/ensembles", json=wanted, headers=too_long)).status_code == 422


async def test_concurrent_replays_make_one_fit(
    client: httpx.AsyncClient, wanted: dict[str, object], ensembles: EnsembleStore
) -> None:
    headers = {"Idempotency-Key": "same"}
    calls = [client.post("/v1/ensembles", json=wanted, headers=headers) for _ in range(8)]
    statuses = {response.status_code for response in await asyncio.gather(*calls)}
    assert statuses <= {202, 409}
    assert 202 in statuses
    assert ensembles.versions("zoo") == (1,)


async def test_a_refused_request_does_not_use_up_its_key(
    client: httpx.AsyncClient, wanted: dict[str, object], make_prompt: Callable[..., bytes]
) -> None:
    later = {**wanted, "sources": ["later"]}
    headers = {"Idempotency-Key": "k"}
    assert (await client.post("/v1/ensembles", json=later, headers=headers)).status_code == 422
    await client.put("/v1/prompts/later", content=make_prompt(5))
    assert (await client.post("/v1/ensembles", json=later, headers=headers)).status_code == 202


async def test_a_refused_request_may_be_mended_under_its_key(
    client: httpx.AsyncClient, wanted: dict[str, object], ensembles: EnsembleStore
) -> None:
    headers = {"Idempotency-Key": "k"}
    mistaken = {**wanted, "sources": ["mistaken"]}
    refused = await client.post("/v1/ensembles", json=mistaken, headers=headers)
    assert (refused.status_code, slug(refused)) == (422, "unknown-source")
    assert (await client.post("/v1/ensembles", json=wanted, headers=headers)).status_code == 202
    again = await client.post("/v1/ensembles", json=mistaken, headers=headers)
    assert (again.status_code, slug(again)) == (422, "idempotency-key-reused")
    assert ensembles.versions("zoo") == (1,)


async def test_a_retry_finds_the_fit_of_a_write_that_seemed_to_fail(
    client: httpx.AsyncClient,
    wanted: dict[str, object],
    ensembles: EnsembleStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    create = EnsembleStore.create

    def ambiguous(self: EnsembleStore, *args: Any) -> FitRequest:
        create(self, *args)
        raise StoreUnavailableError("cannot write: Input/output error")

    headers = {"Idempotency-Key": "k"}
    await client.post("/v1/ensembles", json=wanted, headers={"Idempotency-Key": "other"})
    with monkeypatch.context() as patched:
        patched.setattr(EnsembleStore, "create", ambiguous)
        failed = await client.post("/v1/ensembles", json=wanted, headers=headers)
        assert failed.status_code == 503
    other = await client.post("/v1/ensembles", json={**wanted, "seed": 8}, headers=headers)
    assert (other.status_code, slug(other)) == (422, "idempotency-key-reused")
    await client.post("/v1/ensembles", json=wanted)
    again = await client.post("/v1/ensembles", json=wanted, headers=headers)
    assert (again.status_code, again.json()["version"]) == (202, 2)
    assert ensembles.versions("zoo") == (1, 2, 3)


async def test_a_queued_fit_can_be_cancelled_once(
    client: httpx.AsyncClient, wanted: dict[str, object]
) -> None:
    await client.post("/v1/ensembles", json=wanted)
    cancelled = await client.post("/v1/ensembles/zoo/cancel")
    assert (cancelled.status_code, cancelled.json()["status"]) == (202, "cancelled")
    again = await client.post("/v1/ensembles/zoo/cancel?version=1")
    assert (again.status_code, slug(again)) == (409, "fit-ended")
    unknown = await client.post("/v1/ensembles/zoo/cancel?version=2")
    assert (unknown.status_code, slug(unknown)) == (404, "ensemble-not-found")


async def test_a_failed_fit_says_why(
    client: httpx.AsyncClient, ensembles: EnsembleStore, make_spec: Callable[..., object]
) -> None:
    request: FitRequest = ensembles.create(make_spec("zoo"))
    attempt = ensembles.claim_attempt(request.fit_id, "w")
    error = FitError(type="urn:hgprompt:problem:bad", title="Bad", detail="class 'x' is empty")
    ensembles.publish_failure(request.fit_id, attempt, error)
    record = (await client.get("/v1/ensembles/zoo")).json()
    assert (record["status"], record["attempt"]) == ("failed", 1)
    assert record["error"]["detail"] == "class 'x' is empty"
    assert (await client.get("/v1/ensembles/zoo/versions/1")).json() == record
    assert slug(await client.get("/v1/ensembles/zoo/versions/2")) == "ensemble-not-found"
    for part in ("content", "report"):
        missing = await client.get(f"/v1/ensembles/zoo/{part}")
        assert (missing.status_code, slug(missing)) == (409, "ensemble-not-ready")


async def test_unknown_ensembles_are_404(client: httpx.AsyncClient) -> None:
    for path in ("", "?version=1", "/versions", "/versions/1", "/events", "/content", "/report"):
        response = await client.get(f"/v1/ensembles/nothing{path}")
        assert (response.status_code, slug(response)) == (404, "ensemble-not-found"), path


async def test_the_artifact_can_be_downloaded(client: httpx.AsyncClient, publish: Publish) -> None:
    _, digest = publish("zoo")
    response = await client.get("/v1/ensembles/zoo/content")
    assert response.headers["etag"] == f'"{digest}"'
    assert response.headers["content-length"] == str(len(response.content))
    known = {"If-None-Match": response.headers["etag"]}
    assert (await client.get("/v1/ensembles/zoo/content", headers=known)).status_code == 304


async def test_a_damaged_request_takes_no_other_ensemble_out_of_the_lists(
    client: httpx.AsyncClient,
    publish: Publish,
    ensembles: EnsembleStore,
    make_spec: Callable[..., FitSpec],
    store_url: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    publish("good")
    publish("zoo")
    (damaged, _), unknown = publish("zoo"), ensembles.create(make_spec("young")).fit_id
    for fit_id in (damaged, unknown):
        damage_document(store_url, request_key(fit_id))
    page = (await client.get("/v1/ensembles")).json()
    assert [item["name"] for item in page["items"]] == ["good"]
    assert "left out: the record of ensemble version zoo@2 is damaged" in caplog.text
    versions = (await client.get("/v1/ensembles/zoo/versions")).json()["items"]
    assert [item["version"] for item in versions] == [1]
    for path, fit in (("zoo?version=2", damaged), ("zoo", damaged), ("young", unknown)):
        answer = await client.get(f"/v1/ensembles/{path}")
        assert (answer.status_code, slug(answer)) == (500, "corrupt-document")
        assert f"the record of ensemble version {fit} is damaged" in answer.json()["detail"]
    assert (await client.get("/v1/ensembles/zoo?version=1")).json()["status"] == "succeeded"
    refused = await client.delete("/v1/prompts/digits")
    assert (refused.status_code, slug(refused)) == (409, "prompt-in-use")
    assert (await client.delete("/v1/ensembles/zoo")).status_code == 204


def events_of(text: str) -> list[tuple[str, str, dict[str, object]]]:
    """Server-sent events as (event, id, data)."""
    found = []
    for block in text.split("\n\n"):
        fields = dict(
            line.split(": ", 1) for line in block.splitlines() if not line.startswith(":")
        )
        if fields:
            found.append((fields["event"], fields["id"], json.loads(fields["data"])))
    return found


async def test_events_end_with_the_outcome_and_can_be_resumed(
    client: httpx.AsyncClient, wanted: dict[str, object]
) -> None:
    await client.post("/v1/ensembles", json=wanted)
    url = "/v1/ensembles/zoo/events"
    following = asyncio.create_task(client.get(url))
    await asyncio.sleep(0.3)
    assert not following.done()
    await client.post("/v1/ensembles/zoo/cancel")
    response = await following
    assert response.headers["content-type"].startswith("text/event-stream")
    events = events_of(response.text)
    assert [(event, data["status"]) for event, _, data in events] == [
        ("progress", "queued"),
        ("outcome", "cancelled"),
    ]
    resumed = await client.get(url, headers={"Last-Event-ID": events[0][1]})
    assert events_of(resumed.text) == events[1:]
    after_the_end = await client.get(url, headers={"Last-Event-ID": events[1][1]})
    assert (after_the_end.status_code, after_the_end.content) == (204, b"")
    assert "content-type" not in after_the_end.headers
    await client.post("/v1/ensembles", json=wanted)
    await client.post("/v1/ensembles/zoo/cancel")
    for query, last in (("?version=1", events[1][1]), ("", "2:9999999999-0")):
        ended = await client.get(f"{url}{query}", headers={"Last-Event-ID": last})
        assert ended.status_code == 204
    for query in ("", "?version=1", "?version=2"):  # a position in any of them
        ended = await client.get(f"{url}{query}", headers={"Last-Event-ID": "9999999999-0"})
        assert ended.status_code == 204
    anew = await client.get(url, headers={"Last-Event-ID": "1-1"})
    assert [event for event, _, _ in events_of(anew.text)] == ["outcome"]


async def test_an_event_of_one_version_hides_none_of_the_next(
    client: httpx.AsyncClient, wanted: dict[str, object]
) -> None:
    """An `EventSource` that reconnects after a refit names an event of the version before."""
    url = "/v1/ensembles/zoo/events"
    for _ in range(2):
        await client.post("/v1/ensembles", json=wanted)
        await client.post("/v1/ensembles/zoo/cancel")
    first = events_of((await client.get(f"{url}?version=1")).text)
    second = events_of((await client.get(url)).text)
    assert [event_id for _, event_id, _ in first] == ["1:0-1", "1:9999999999-0"]
    assert [event_id for _, event_id, _ in second] == ["2:0-1", "2:9999999999-0"]
    for query in ("", "?version=2"):
        for _, event_id, _ in first:
            anew = await client.get(f"{url}{query}", headers={"Last-Event-ID": event_id})
            assert events_of(anew.text) == second


async def test_without_a_trace_in_redis_the_outcome_is_still_told(
    client: httpx.AsyncClient, publish: Publish
) -> None:
    publish("zoo")
    events = events_of((await client.get("/v1/ensembles/zoo/events?version=1")).text)
    assert [(event, data["status"]) for event, _, data in events] == [("outcome", "succeeded")]
