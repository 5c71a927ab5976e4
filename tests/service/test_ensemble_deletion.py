import asyncio
from collections.abc import Callable

import httpx
import pytest

from jobs.ensembles import EnsembleStore
from jobs.records import FitId, FitResultDocs, FitSpec, SourceRef
from prompt_store.artifacts import Artifact, write_artifact
from tests.service.conftest import Opener

pytestmark = pytest.mark.anyio

Publish = Callable[..., tuple[FitId, str]]
ZOO = "/v1/ensembles/zoo"


def slug(response: httpx.Response) -> str:
    assert response.headers["content-type"] == "application/problem+json"
    return response.json()["type"].removeprefix("urn:hgprompt:problem:")


async def point(client: httpx.AsyncClient, version: int) -> None:
    """Create the alias `prod`."""
    headers = {"If-None-Match": "*"}
    url = f"{ZOO}/aliases/prod"
    created = await client.put(url, json={"version": version}, headers=headers)
    assert created.status_code == 201


async def check_gone(client: httpx.AsyncClient, image: bytes) -> None:
    """Check that nothing answers for `zoo`, whose version 1 and alias `prod` there were."""
    paths = ("", "?version=1", "?version=2", "/versions", "/events", "/content", "/report")
    for path in (*paths, "/content?version=1", "/report?version=1", "/aliases"):
        response = await client.get(f"{ZOO}{path}")
        assert (response.status_code, slug(response)) == (404, "ensemble-not-found"), path
    assert (await client.get(f"{ZOO}/aliases/prod")).status_code == 404
    assert (await client.post(f"{ZOO}/cancel?version=1")).status_code == 404
    for reference in ("zoo", "zoo@1", "zoo@prod"):
        answer = await client.post(f"/v1/ensembles/{reference}/classify", content=image)
        assert answer.status_code == 404, reference
    for path in ("", "/ready", "/config", "/stats", "/versions/1", "/versions/1/ready"):
        response = await client.get(f"/v2/models/zoo{path}")
        assert (response.status_code, list(response.json())) == (404, ["error"]), path
    raw = {"Inference-Header-Content-Length": "0"}
    for path in ("infer", "versions/1/infer"):
        answer = await client.post(f"/v2/models/zoo/{path}", content=image, headers=raw)
        assert answer.status_code == 404, path
    assert (await client.post("/v2/repository/models/zoo/load")).status_code == 404
    assert (await client.post("/v2/repository/index")).json() == []
    assert (await client.get("/v1/ensembles")).json() == {"items": [], "next_cursor": None}


async def test_a_deleted_ensemble_is_gone_at_once_and_its_name_goes_on_counting(
    open_client: Opener,
    publish: Publish,
    image: Callable[..., bytes],
    ensembles: EnsembleStore,
    make_spec: Callable[..., FitSpec],
) -> None:
    async with open_client(resolve_ttl_s=1.0) as client:
        publish("zoo")
        await point(client, 1)
        for reference in ("zoo", "zoo@1", "zoo@prod"):
            answer = await client.post(f"/v1/ensembles/{reference}/classify", content=image())
            assert answer.status_code == 200
        deleted = await client.delete(ZOO)
        assert (deleted.status_code, deleted.content) == (204, b"")
        await check_gone(client, image())
        again = await client.delete(ZOO)
        assert (again.status_code, slug(again)) == (404, "ensemble-not-found")
        history = (await client.get(f"{ZOO}/aliases/prod/history")).json()["items"]
        assert [move["version"] for move in history] == [1]
        _, digest = publish("zoo", seed=2)
        answer = await client.post(f"{ZOO}/classify", content=image())
        assert answer.json()["ensemble"] == {"name": "zoo", "version": 3, "digest": digest}
        assert (await client.get(ZOO)).json()["version"] == 3
        versions = (await client.get(f"{ZOO}/versions")).json()["items"]
        assert [each["version"] for each in versions] == [3]
        assert (await client.get(f"{ZOO}/aliases")).json()["items"] == []
        await point(client, 3)
        assert (await client.post(f"{ZOO}@prod/classify", content=image())).status_code == 200
        ensembles.create(make_spec("zoo"))
        assert (await client.post(f"{ZOO}/cancel?version=1")).status_code == 404


async def test_another_process_sees_a_deletion_within_the_ttl(
    open_client: Opener, publish: Publish, image: Callable[..., bytes], ensembles: EnsembleStore
) -> None:
    async with open_client(resolve_ttl_s=0.1) as client:
        publish("zoo")
        await point(client, 1)
        references = ("zoo", "zoo@1", "zoo@prod")
        for reference in references:
            await client.post(f"/v1/ensembles/{reference}/classify", content=image())
        ensembles.delete("zoo")
        await asyncio.sleep(0.15)
        await check_gone(client, image())


async def test_unfinished_fits_are_named_and_can_be_cancelled_first(
    client: httpx.AsyncClient,
    publish: Publish,
    ensembles: EnsembleStore,
    make_spec: Callable[..., FitSpec],
) -> None:
    publish("zoo")
    ensembles.create(make_spec("zoo"))
    refused = await client.delete(ZOO)
    assert (refused.status_code, slug(refused)) == (409, "fits-unfinished")
    document = refused.json()
    assert (document["field"], document["fits"]) == ("name", ["zoo@2"])
    assert "zoo@2; cancel them first" in document["detail"]
    assert (await client.get(ZOO)).json()["version"] == 1
    assert (await client.post(f"{ZOO}/cancel?version=2")).status_code == 202
    assert (await client.delete(ZOO)).status_code == 204


async def test_prompts_and_tasks_can_be_deleted_after_the_ensembles_that_read_them(
    client: httpx.AsyncClient,
    ensembles: EnsembleStore,
    make_prompt: Callable[..., bytes],
    make_task: Callable[..., bytes],
    make_spec: Callable[..., FitSpec],
    make_artifact: Callable[..., Artifact],
) -> None:
    manifest = (await client.put("/v1/prompts/fashion", content=make_prompt(1))).json()
    await client.put("/v1/tasks/animals", content=make_task())
    source = SourceRef(name="fashion", version=1, digest=manifest["digest"])
    for name in ("ark", "zoo"):
        fit_id = ensembles.create(make_spec(name, sources=(source,))).fit_id
        docs = FitResultDocs(write_artifact(make_artifact()), {})
        ensembles.publish_result(fit_id, ensembles.claim_attempt(fit_id, "w"), docs)
    for left in (["ark@1", "zoo@1"], ["zoo@1"]):
        held = await client.delete("/v1/prompts/fashion")
        assert (held.status_code, held.json()["ensembles"]) == (409, left)
        assert (await client.delete(f"/v1/ensembles/{left[0][:3]}")).status_code == 204
    assert (await client.delete("/v1/prompts/fashion")).status_code == 204
    assert (await client.delete("/v1/tasks/animals")).status_code == 204


async def test_a_deletion_replaces_only_what_it_says(
    client: httpx.AsyncClient, publish: Publish
) -> None:
    nothing = await client.delete(ZOO, headers={"If-Match": "*"})
    assert (nothing.status_code, slug(nothing)) == (404, "ensemble-not-found")
    publish("zoo", seed=1)
    old = (await client.head(f"{ZOO}/content")).headers["etag"]
    publish("zoo", seed=2)
    tag = (await client.head(f"{ZOO}/content")).headers["etag"]
    for headers in ({"If-None-Match": "*"}, {"If-Match": old}, {"If-Match": f"W/{tag}"}):
        refused = await client.delete(ZOO, headers=headers)
        assert (refused.status_code, slug(refused)) == (412, "precondition-failed")
        assert refused.headers["etag"] == tag
    malformed = await client.delete(ZOO, headers={"If-Match": "x"})
    assert (malformed.status_code, slug(malformed)) == (400, "malformed-precondition")
    assert (await client.delete(ZOO, headers={"If-Match": f"{old}, {tag}"})).status_code == 204


async def test_without_an_artifact_the_newest_version_is_the_tag(
    client: httpx.AsyncClient, ensembles: EnsembleStore, make_spec: Callable[..., FitSpec]
) -> None:
    ensembles.cancel(ensembles.create(make_spec("zoo")).fit_id)
    refused = await client.delete(ZOO, headers={"If-None-Match": "*"})
    assert (refused.status_code, refused.headers["etag"]) == (412, '"zoo@1"')
    assert (await client.delete(ZOO, headers={"If-Match": '"zoo@1"'})).status_code == 204


async def test_of_many_deletions_at_once_one_is_answered_204(
    client: httpx.AsyncClient, publish: Publish
) -> None:
    publish("zoo")
    answers = await asyncio.gather(*(client.delete(ZOO) for _ in range(8)))
    assert sorted(answer.status_code for answer in answers) == [204] + 7 * [404]


async def test_the_methods_of_an_ensemble_are_told(client: httpx.AsyncClient) -> None:
    refused = await client.put(ZOO)
    assert (refused.status_code, refused.headers["allow"]) == (405, "DELETE, GET")
