import json
from collections.abc import AsyncIterator, Callable
from typing import Any, get_args

import httpx
import numpy as np
import pytest

from backbones.info import LoadedBackbone
from ensemble.options import Method
from prompt_store.blobs import BlobStore
from prompt_store.clock import utc_now
from prompt_store.codec import PromptFile, write_prompt
from prompt_store.objects import ObjectStore
from prompt_store.registry import PromptRegistry

pytestmark = pytest.mark.anyio

FOREIGN = f"sha256:{'f' * 64}"


@pytest.fixture
async def stocked(
    client: httpx.AsyncClient, make_prompt: Callable[..., bytes], make_task: Callable[..., bytes]
) -> AsyncIterator[httpx.AsyncClient]:
    """A service with a task and two prompts."""
    for i, name in enumerate(["fashion", "count"]):
        assert (await client.put(f"/v1/prompts/{name}", content=make_prompt(i))).is_success
    assert (await client.put("/v1/tasks/animals", content=make_task())).is_success
    return client


def body(**fields: object) -> dict[str, object]:
    return {"name": "zoo", "task": "animals", "sources": ["fashion", "count"], **fields}


async def refused(client: httpx.AsyncClient, **fields: object) -> tuple[str, dict[str, object]]:
    response = await client.post("/v1/ensembles", json=body(**fields))
    assert response.status_code == 422, response.text
    assert response.headers["content-type"] == "application/problem+json"
    document = response.json()
    return document["type"].removeprefix("urn:hgprompt:problem:"), document


async def test_references_become_digests_at_request_time(
    stocked: httpx.AsyncClient, make_prompt: Callable[..., bytes]
) -> None:
    newer = (await stocked.put("/v1/prompts/fashion", content=make_prompt(9))).json()
    count = (await stocked.get("/v1/prompts/count")).json()
    task = (await stocked.get("/v1/tasks/animals")).json()
    response = await stocked.post(
        "/v1/ensembles", json=body(sources=["fashion@1", count["digest"]], task=task["digest"])
    )
    assert response.status_code == 202
    record = response.json()
    assert [(s["name"], s["version"]) for s in record["sources"]] == [("fashion", 1), ("count", 1)]
    assert record["sources"][1]["digest"] == count["digest"]
    assert record["task"] == {"name": "animals", "version": 1, "digest": task["digest"]}
    latest = (await stocked.post("/v1/ensembles", json=body())).json()
    assert latest["sources"][0]["digest"] == newer["digest"]


async def test_all_means_every_prompt_of_this_backbone(
    stocked: httpx.AsyncClient, objects: ObjectStore, loaded: LoadedBackbone
) -> None:
    foreign = _prompt_of(FOREIGN, loaded.info.embed_dim)
    registry = PromptRegistry(objects, BlobStore(objects), utc_now)
    registry.put("alien", write_prompt(foreign), foreign)
    record = (await stocked.post("/v1/ensembles", json=body(sources="all"))).json()
    assert [source["name"] for source in record["sources"]] == ["count", "fashion"]
    slug, problem = await refused(stocked, sources=["fashion", "alien"])
    assert (slug, problem["field"]) == ("backbone-mismatch", "sources[1]")
    assert FOREIGN in str(problem["detail"])
    assert loaded.info.digest in str(problem["detail"])


@pytest.mark.parametrize(
    "reference", ["nothing", "fashion@7", f"sha256:{'0' * 64}", "No Name", "x@"]
)
async def test_an_unknown_source_or_task_is_named(
    stocked: httpx.AsyncClient, reference: str
) -> None:
    slug, problem = await refused(stocked, sources=["fashion", reference])
    assert (slug, problem["field"]) == ("unknown-source", "sources[1]")
    assert reference in str(problem["detail"])
    slug, problem = await refused(stocked, task=reference)
    assert (slug, problem["field"]) == ("unknown-task", "task")


async def test_prompts_of_different_shapes_cannot_be_combined(
    stocked: httpx.AsyncClient, make_prompt: Callable[..., bytes]
) -> None:
    await stocked.put("/v1/prompts/long", content=make_prompt(1, num_tokens=9))
    await stocked.put("/v1/prompts/shallow", content=make_prompt(1, num_layers=1))
    for sources in (["fashion", "long"], ["fashion", "shallow"]):
        slug, problem = await refused(stocked, sources=sources)
        assert slug == "mixed-prompt-shapes"
        assert "P = 3, L = 2: " in str(problem["detail"])
    plain = body(sources=["fashion", "long", "shallow"], method="none")
    assert (await stocked.post("/v1/ensembles", json=plain)).status_code == 202


async def test_all_leaves_out_what_has_another_shape_and_says_so(
    stocked: httpx.AsyncClient, make_prompt: Callable[..., bytes]
) -> None:
    same = (await stocked.post("/v1/ensembles", json=body(sources="all"))).json()
    assert same["left_out"] == []
    long = (await stocked.put("/v1/prompts/long", content=make_prompt(1, num_tokens=9))).json()
    await stocked.put("/v1/prompts/shallow", content=make_prompt(1, num_layers=1))
    record = (await stocked.post("/v1/ensembles", json=body(sources="all"))).json()
    assert [source["name"] for source in record["sources"]] == ["count", "fashion"]
    assert [source["name"] for source in record["left_out"]] == ["long", "shallow"]
    assert record["left_out"][0] == {
        "name": "long",
        "version": 1,
        "digest": long["digest"],
        "reason": "L = 2, P = 9; the 2 sources that are taken have L = 2, P = 3",
    }
    for path in ("zoo?version=2", "zoo/versions/2"):
        shown = (await stocked.get(f"/v1/ensembles/{path}")).json()
        assert (shown["left_out"], shown["sources"]) == (record["left_out"], record["sources"])
    assert (await stocked.get("/v1/ensembles/zoo?version=1")).json()["left_out"] == []
    cancelled = (await stocked.post("/v1/ensembles/zoo/cancel?version=2")).json()
    assert cancelled["left_out"] == record["left_out"]
    plain = (await stocked.post("/v1/ensembles", json=body(sources="all", method="none"))).json()
    assert (len(plain["sources"]), plain["left_out"]) == (4, [])


async def test_of_two_shapes_as_common_all_takes_the_deeper(
    stocked: httpx.AsyncClient, make_prompt: Callable[..., bytes]
) -> None:
    for i, name in enumerate(["a-shallow", "z-shallow"]):
        upload = make_prompt(i, num_layers=1, num_tokens=9)
        await stocked.put(f"/v1/prompts/{name}", content=upload)
    record = (await stocked.post("/v1/ensembles", json=body(sources="all"))).json()
    assert [source["name"] for source in record["sources"]] == ["count", "fashion"]


async def test_a_source_is_taken_once(stocked: httpx.AsyncClient) -> None:
    slug, problem = await refused(stocked, sources=["fashion", "count", "fashion@1"])
    assert (slug, problem["field"]) == ("duplicate-source", "sources[2]")


async def test_the_number_of_sources_is_bounded(
    open_client: Callable[..., object],
    make_prompt: Callable[..., bytes],
    make_task: Callable[..., bytes],
) -> None:
    async with open_client(max_sources=2) as client:
        await client.put("/v1/tasks/animals", content=make_task())
        slug, problem = await refused(client, sources="all")
        assert (slug, problem["limit"]) == ("no-sources", 1)
        for i in range(3):
            await client.put(f"/v1/prompts/p{i}", content=make_prompt(i))
        for sources in ("all", ["p0", "p1", "p2"]):
            slug, problem = await refused(client, sources=sources)
            assert (slug, problem["limit"]) == ("too-many-sources", 2)
            assert problem["detail"] == "3 or more sources; the limit is 2 (max_sources)"
        plain = await client.post("/v1/ensembles", json=body(sources=[], method="none"))
        assert plain.status_code == 202


@pytest.mark.parametrize(
    ("images", "fraction", "needed"), [(1, 0.3, 2), (1, 0.5, 2), (3, 0.1, 6), (5, 0.1, 6)]
)
async def test_a_task_too_small_to_hold_anything_out_is_refused(
    stocked: httpx.AsyncClient,
    make_task: Callable[..., bytes],
    images: int,
    fraction: float,
    needed: int,
) -> None:
    options = {"validation_fraction": fraction}
    await stocked.put("/v1/tasks/small", content=make_task(cat=images, dog=1))
    slug, problem = await refused(stocked, task="small", options=options)
    assert (slug, problem["limit"], problem["field"]) == ("task-too-small", needed, "task")
    await stocked.put("/v1/tasks/enough", content=make_task(cat=needed, dog=1))
    accepted = await stocked.post("/v1/ensembles", json=body(task="enough", options=options))
    assert accepted.status_code == 202


async def test_a_task_with_more_logits_than_a_fit_can_keep_is_refused(
    stocked: httpx.AsyncClient, make_task: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.registry.fits.MAX_LOGITS", 12)
    await stocked.put("/v1/tasks/large", content=make_task(cat=4, dog=3))
    slug, problem = await refused(stocked, task="large")
    assert (slug, problem["limit"], problem["field"]) == ("task-too-large", 12, "task")
    assert "7 images of 2 classes, which makes 14 logits" in str(problem["detail"])
    await stocked.put("/v1/tasks/fits", content=make_task(cat=3, dog=3))
    assert (await stocked.post("/v1/ensembles", json=body(task="fits"))).status_code == 202


async def test_a_fit_that_would_take_too_much_memory_is_refused(
    open_client: Callable[..., Any],
    make_task: Callable[..., bytes],
    make_prompt: Callable[..., bytes],
    loaded: LoadedBackbone,
) -> None:
    info = loaded.info
    pixels, logits = 3 * info.image_size_px**2 * 2, (2 + 9) * 2 * 8
    per_image = 3 * info.embed_dim * 40 + pixels + logits  # two sources and plain
    prompts, one_read = 2 * 2 * 3 * info.embed_dim * (8 + 60), 2 * 3 * info.embed_dim * 8
    limit = 6 * per_image + prompts + one_read
    async with open_client(max_fit_bytes=limit) as client:
        for i in range(3):
            await client.put(f"/v1/prompts/p{i}", content=make_prompt(i))
        await client.put("/v1/tasks/large", content=make_task(cat=4, dog=3))
        await client.put("/v1/tasks/fits", content=make_task(cat=3, dog=3))
        two = ["p0", "p1"]
        slug, problem = await refused(client, task="large", sources=two)
        assert (slug, problem["limit"]) == ("task-too-large", limit)
        assert f"2 sources take some {7 * per_image + prompts} bytes" in str(problem["detail"])
        slug, _ = await refused(client, task="fits", sources=[*two, "p2"])
        assert slug == "task-too-large"
        kept = body(task="fits", sources=[*two, "p2"], options={"max_sources": 2})
        assert (await client.post("/v1/ensembles", json=kept)).status_code == 202


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"options": {"tuning_epochs": 201}}, "options.tuning_epochs"),
        ({"options": {"shrinkage": 1e-7}}, "options.shrinkage"),
        ({"options": {"epochs": 1}}, "options.epochs"),
        ({"method": "magic"}, "method"),
        ({"name": "No"}, "name"),
        ({"seed": -1}, "seed"),
        ({"colour": "red"}, "colour"),
        ({"task": ""}, "task"),
    ],
)
async def test_a_bad_field_is_named(
    stocked: httpx.AsyncClient, fields: dict[str, object], field: str
) -> None:
    slug, problem = await refused(stocked, **fields)
    assert (slug, problem["field"]) == ("invalid-request", field)


@pytest.mark.parametrize("method", ["vpt", "panda"])
async def test_a_method_that_tunes_is_refused_without_tuning(
    stocked: httpx.AsyncClient, method: str
) -> None:
    for options in ({}, {"tuning_epochs": 0}):
        slug, problem = await refused(stocked, method=method, options=options)
        assert (slug, problem["field"]) == ("options-refused", "options.tuning_epochs")
        assert problem["limit"] == 1
        assert problem["detail"] == (
            f"method '{method}' tunes a prompt, so tuning_epochs must be 1 or more; it is 0"
        )
    accepted = await stocked.post(
        "/v1/ensembles", json=body(method=method, options={"tuning_epochs": 1})
    )
    assert accepted.status_code == 202


async def test_methods_of_no_source_need_none_and_the_others_do(stocked: httpx.AsyncClient) -> None:
    options = {"tuning_epochs": 1}
    for method in get_args(Method):
        wanted = body(sources=[], method=method, options=options)
        response = await stocked.post("/v1/ensembles", json=wanted)
        if method in {"none", "vpt"}:
            assert response.status_code == 202
            assert response.json()["sources"] == []
        else:
            assert response.status_code == 422
            assert f"method '{method}' needs at least 1 source" in response.json()["detail"]


@pytest.mark.parametrize(
    ("option", "value", "limit"),
    [
        ("composition", "x", "'feature_sum' or 'exact'"),
        ("precision", "fp8", "'auto', 'fp32' or 'bf16'"),
        ("max_sources", 0, "greater than or equal to 1"),
        ("max_sources", 101, "less than or equal to 100"),
        ("cotangent_refreshes", 0, "greater than or equal to 1"),
        ("cotangent_refreshes", 4, "less than or equal to 3"),
        ("prompt_learning_rate", 0, "greater than 0"),
        ("prompt_learning_rate", 11, "less than or equal to 10"),
        ("tuning_epochs", -1, "greater than or equal to 0"),
        ("tuning_epochs", 1.5, "valid integer"),
        ("shrinkage", 1, "less than 1"),
        ("validation_fraction", 0.6, "less than or equal to 0.5"),
        ("penalty_weight", -0.1, "greater than or equal to 0"),
        ("ablations", "perhaps", "valid boolean"),
    ],
)
async def test_an_option_out_of_bounds_is_named_with_its_limit(
    stocked: httpx.AsyncClient, option: str, value: object, limit: str
) -> None:
    slug, problem = await refused(stocked, options={option: value})
    assert (slug, problem["field"]) == ("invalid-request", f"options.{option}")
    assert limit in str(problem["detail"])


async def test_an_option_at_its_limit_is_recorded_as_asked_for(stocked: httpx.AsyncClient) -> None:
    options = {
        "composition": "exact",
        "precision": "bf16",
        "max_sources": 100,
        "cotangent_refreshes": 3,
        "prompt_learning_rate": 10,
        "ablations": True,
        "tuning_epochs": 200,
    }
    record = (await stocked.post("/v1/ensembles", json=body(options=options))).json()
    assert options.items() <= record["options"].items()


async def test_a_number_that_is_none_is_refused(stocked: httpx.AsyncClient) -> None:
    text = json.dumps(body()).replace('"sources"', '"options": {"penalty_weight": NaN}, "sources"')
    response = await stocked.post(
        "/v1/ensembles", content=text, headers={"content-type": "application/json"}
    )
    assert response.status_code == 422
    assert response.json()["field"] == "options.penalty_weight"


def _prompt_of(backbone_digest: str, width: int) -> PromptFile:
    values = np.ones((2, 3, width), np.float32)
    return PromptFile(prompt_embeddings=values, metadata={"backbone_digest": backbone_digest})


@pytest.mark.parametrize("kind", ["prompts", "tasks", "ensembles"])
async def test_versions_come_in_pages(
    stocked: httpx.AsyncClient,
    make_prompt: Callable[..., bytes],
    make_task: Callable[..., bytes],
    kind: str,
) -> None:
    for i in range(3):
        await stocked.put("/v1/prompts/many", content=make_prompt(10 + i))
        await stocked.put("/v1/tasks/many", content=make_task(cat=3 + i, dog=3))
        await stocked.post("/v1/ensembles", json=body(name="many"))
    path = f"/v1/{kind}/many/versions"
    first = (await stocked.get(path, params={"limit": 2})).json()
    assert [item["version"] for item in first["items"]] == [1, 2]
    rest = (await stocked.get(path, params={"cursor": first["next_cursor"]})).json()
    assert [item["version"] for item in rest["items"]] == [3]
    assert rest["next_cursor"] is None
    for wrong in ({"limit": 0}, {"cursor": "many"}, {"cursor": 0}):
        assert (await stocked.get(path, params=wrong)).status_code == 422
    gone = await stocked.get(f"/v1/{kind}/nothing/versions")
    assert gone.status_code == 404
