import asyncio
import json
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import httpx
import pytest

from jobs.ensembles import EnsembleStore
from jobs.records import FitError, FitId, FitSpec
from prompt_store.objects import ObjectStore

pytestmark = pytest.mark.anyio

Publish = Callable[..., tuple[FitId, str]]
Images = Callable[..., bytes]
Opener = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]
PROD = "/v1/ensembles/zoo/aliases/prod"
CLASSIFY = "/v1/ensembles/zoo@prod/classify"
NEW = {"If-None-Match": "*"}
HALVES = {"versions": [{"version": 1, "weight": 0.5}, {"version": 2, "weight": 0.5}]}


def slug(response: httpx.Response) -> str:
    assert response.headers["content-type"] == "application/problem+json"
    return response.json()["type"].removeprefix("urn:hgprompt:problem:")


def match(tag: str) -> dict[str, str]:
    return {"If-Match": tag}


@pytest.fixture
def two(publish: Publish) -> tuple[str, str]:
    """Digests of zoo@1 and zoo@2."""
    return publish("zoo", seed=1)[1], publish("zoo", seed=2)[1]


@pytest.mark.usefixtures("two")
async def test_an_alias_is_created_read_moved_and_deleted(client: httpx.AsyncClient) -> None:
    assert (await client.get(PROD)).status_code == 404
    created = await client.put(PROD, json={"version": 1}, headers=NEW)
    assert (created.status_code, created.headers["etag"]) == (201, '"1"')
    assert created.headers["location"] == PROD
    document = created.json()
    moved_at = document.pop("moved_at")
    assert document == {
        "name": "zoo",
        "alias": "prod",
        "version": 1,
        "versions": [{"version": 1, "weight": 1.0}],
        "move": 1,
    }
    assert moved_at.endswith("Z")
    read = await client.get(PROD)
    assert (read.status_code, read.headers["etag"], read.json()) == (200, '"1"', created.json())
    moved = await client.put(PROD, json=HALVES, headers=match(read.headers["etag"]))
    assert (moved.status_code, moved.headers["etag"]) == (200, '"2"')
    assert (moved.json()["version"], moved.json()["versions"]) == (None, HALVES["versions"])
    deleted = await client.delete(PROD, headers=match('"2"'))
    assert (deleted.status_code, deleted.content) == (204, b"")
    assert (await client.get(PROD)).status_code == 404
    assert (await client.delete(PROD, headers=match("*"))).status_code == 404
    again = await client.put(PROD, json={"version": 2}, headers=NEW)
    assert (again.status_code, again.headers["etag"]) == (201, '"4"')


@pytest.mark.usefixtures("two")
async def test_a_lost_swap_tells_how_the_alias_stands(client: httpx.AsyncClient) -> None:
    absent = await client.put(PROD, json={"version": 1}, headers=match("*"))
    assert (absent.status_code, slug(absent)) == (412, "precondition-failed")
    assert (absent.json()["field"], absent.headers.get("etag")) == ("If-Match", None)
    await client.put(PROD, json={"version": 1}, headers=NEW)
    taken = await client.put(PROD, json={"version": 2}, headers=NEW)
    assert (taken.status_code, taken.headers["etag"]) == (412, '"1"')
    assert taken.json()["field"] == "If-None-Match"
    await client.put(PROD, json={"version": 2}, headers=match('"1"'))
    lost = await client.put(PROD, json={"version": 1}, headers=match('"1"'))
    assert (lost.status_code, slug(lost), lost.headers["etag"]) == (
        412,
        "precondition-failed",
        '"2"',
    )
    assert "alias prod of zoo in ensembles is at move 2" in lost.json()["detail"]
    assert (await client.delete(PROD, headers=match('"1"'))).status_code == 412
    assert (await client.get(PROD)).json()["version"] == 2


@pytest.mark.usefixtures("two")
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([("If-Match", '"1"')], 200),
        ([("If-Match", "*")], 200),
        ([("If-Match", " * ")], 200),
        ([("If-Match", '"7", "1"')], 200),
        ([("If-Match", '"7","1"')], 200),
        ([("If-Match", '"a,b" , , "1",')], 200),
        ([("If-Match", '"7"'), ("If-Match", '"1"')], 200),
        ([("If-Match", 'W/"7", "1"')], 200),
        ([("If-Match", '"7", "8"')], 412),
        ([("If-Match", 'W/"1"')], 412),  # comparison is strong
        ([("If-Match", '"01"')], 412),
        ([("If-Match", '""')], 412),
        ([("If-Match", '"sha256:1"')], 412),
        ([("If-None-Match", "*")], 412),
        ([("If-Match", '"1"'), ("If-None-Match", "*")], 412),
        ([("If-Match", "1")], 400),
        ([("If-Match", "")], 400),
        ([("If-Match", '"1')], 400),
        ([("If-Match", '"1" "2"')], 400),
        ([("If-Match", '*, "1"')], 400),
        ([("If-Match", "w/" + '"1"')], 400),
        ([("If-Match", '"' * 9999)], 400),
        ([("If-None-Match", '"7"')], 400),
        ([], 428),
        ([("If-Unmodified-Since", "Wed, 21 Oct 2026 07:28:00 GMT")], 428),
    ],
)
async def test_preconditions_are_those_of_http(
    client: httpx.AsyncClient, headers: list[tuple[str, str]], status: int
) -> None:
    await client.put(PROD, json={"version": 1}, headers=NEW)
    answer = await client.put(PROD, json={"version": 2}, headers=headers)
    assert answer.status_code == status, answer.text
    read = await client.get(PROD)
    assert read.json()["move"] == (2 if status == 200 else 1)
    gone = await client.delete(PROD, headers=[(k, v.replace('"1"', '"2"')) for k, v in headers])
    assert gone.status_code == {200: 204, 412: 412}.get(status, status)
    if status == 400:
        assert slug(answer) == slug(gone) == "malformed-precondition"
    if status == 428:
        assert slug(answer) == slug(gone) == "precondition-required"


@pytest.mark.usefixtures("two")
async def test_reading_is_conditional_too(client: httpx.AsyncClient) -> None:
    await client.put(PROD, json={"version": 1}, headers=NEW)
    for tag, status in (('"1"', 304), ('W/"1"', 304), ("*", 304), ('"2"', 200), ("1", 400)):
        answer = await client.get(PROD, headers={"If-None-Match": tag})
        assert answer.status_code == status
        if status == 304:
            assert (answer.content, answer.headers["etag"]) == (b"", '"1"')


@pytest.mark.usefixtures("two")
@pytest.mark.parametrize(
    "body",
    [
        {},
        [],
        {"version": None},
        {"version": 1, "versions": [{"version": 1, "weight": 1}]},
        {"version": 0},
        {"version": -1},
        {"version": "1"},
        {"version": 1.0},
        {"version": True},
        {"version": 100_000_000},
        {"version": 1, "weight": 1},
        {"versions": []},
        {"versions": {}},
        {"versions": [1]},
        {"versions": [{"version": 1}]},
        {"versions": [{"version": 1, "weight": 0.5}]},
        {"versions": [{"version": 1, "weight": 1}, {"version": 2, "weight": 0}]},
        {"versions": [{"version": 1, "weight": 1.5}, {"version": 2, "weight": -0.5}]},
        {"versions": [{"version": 1, "weight": 0.9}, {"version": 2, "weight": 0.01}]},
        {"versions": [{"version": 1, "weight": 9}, {"version": 2, "weight": 1}]},
        {"versions": [{"version": 1, "weight": 0.5}, {"version": 1, "weight": 0.5}]},
        {"versions": [{"version": 1, "weight": "1"}]},
        {"versions": [{"version": 1, "weight": True}]},
        {"versions": [{"version": i + 1, "weight": 0.001} for i in range(1000)]},
        '{"versions": [{"version": 1, "weight": NaN}]}',
        '{"versions": [{"version": 1, "weight": Infinity}]}',
        '{"versions": [{"version": 1, "weight": 1e999}]}',
        '{"versions": [{"version": 1, "weight": 1e-999}, {"version": 2, "weight": 1}]}',
    ],
)
async def test_what_is_no_target_is_refused(
    client: httpx.AsyncClient, body: object, objects: ObjectStore
) -> None:
    text = body if isinstance(body, str) else json.dumps(body)
    headers = {"content-type": "application/json", **NEW}
    refused = await client.put(PROD, content=text, headers=headers)
    assert refused.status_code == 422, refused.text
    assert slug(refused) in {"invalid-request", "invalid-split"}
    assert refused.json()["field"]
    assert objects.children("ensembles/zoo") == ["versions"]


@pytest.mark.usefixtures("two")
async def test_a_body_that_is_no_json_or_too_large_is_refused(client: httpx.AsyncClient) -> None:
    headers = {"content-type": "application/json", **NEW}
    broken = await client.put(PROD, content=b'{"version": 1', headers=headers)
    assert (broken.status_code, slug(broken)) == (400, "malformed-json")
    large = await client.put(PROD, content=b" " * 1_000_001, headers=headers)
    assert (large.status_code, slug(large), large.json()["limit"]) == (
        413,
        "body-too-large",
        1_000_000,
    )


async def test_only_versions_that_succeeded_can_be_pointed_at(
    client: httpx.AsyncClient,
    publish: Publish,
    ensembles: EnsembleStore,
    make_spec: Callable[..., FitSpec],
) -> None:
    publish("zoo")
    failed, running, cancelled, queued = (ensembles.create(make_spec("zoo")) for _ in range(4))
    attempt = ensembles.claim_attempt(failed.fit_id, "worker")
    ensembles.publish_failure(
        failed.fit_id, attempt, FitError(type="t", title="Failed", detail="d")
    )
    ensembles.claim_attempt(running.fit_id, "worker")
    ensembles.cancel(cancelled.fit_id)
    for request, status in (
        (failed, "failed"),
        (running, "running"),
        (cancelled, "cancelled"),
        (queued, "queued"),
    ):
        shares = [{"version": v, "weight": 0.5} for v in (1, request.version)]
        for body in ({"version": request.version}, {"versions": shares}):
            refused = await client.put(PROD, json=body, headers=NEW)
            assert (refused.status_code, slug(refused)) == (409, "ensemble-not-ready")
            assert f"zoo@{request.version} is {status}" in refused.json()["detail"]
    unknown = await client.put(PROD, json={"version": 6}, headers=NEW)
    assert (unknown.status_code, slug(unknown)) == (422, "unknown-version")
    assert unknown.json()["detail"] == "there is no ensemble version zoo@6"
    assert (await client.get(PROD)).status_code == 404
    nobody = await client.put(PROD.replace("zoo", "farm"), json={"version": 1}, headers=NEW)
    assert (nobody.status_code, slug(nobody)) == (404, "ensemble-not-found")
    assert (await client.get("/v1/ensembles/farm/aliases")).status_code == 404


@pytest.mark.usefixtures("two")
@pytest.mark.parametrize(
    "alias", ["1", "007", "99999999999", "Prod", "a b", "x" * 65, "%00", "a@b"]
)
async def test_what_cannot_be_an_alias_is_refused(client: httpx.AsyncClient, alias: str) -> None:
    url = f"/v1/ensembles/zoo/aliases/{alias}"
    for answer in (
        await client.get(url),
        await client.get(f"{url}/history"),
        await client.put(url, json={"version": 1}, headers=NEW),
        await client.delete(url, headers=match("*")),
    ):
        assert answer.status_code == 422
        assert slug(answer) in {"invalid-name", "invalid-request"}


@pytest.mark.usefixtures("two")
async def test_of_racing_writers_exactly_one_wins(client: httpx.AsyncClient) -> None:
    for round_ in range(8):
        headers = NEW if round_ == 0 else match(f'"{round_}"')
        bodies = [
            {"versions": [{"version": 1, "weight": w}, {"version": 2, "weight": 1 - w}]}
            for w in (0.1 + 0.01 * i + 0.001 * round_ for i in range(8))
        ]
        answers = await asyncio.gather(
            *(client.put(PROD, json=body, headers=headers) for body in bodies)
        )
        statuses = Counter(answer.status_code for answer in answers)
        assert statuses == {(201 if round_ == 0 else 200): 1, 412: 7}
        (winner,) = (answer for answer in answers if answer.is_success)
        read = await client.get(PROD)
        assert (read.json(), read.headers["etag"]) == (winner.json(), f'"{round_ + 1}"')


@pytest.mark.usefixtures("two")
async def test_lists_and_histories_are_paginated(client: httpx.AsyncClient) -> None:
    for alias in ("a", "b", "c", "gone"):
        url = f"/v1/ensembles/zoo/aliases/{alias}"
        await client.put(url, json={"version": 1}, headers=NEW)
    await client.delete(url, headers=match("*"))
    for version in (2, 1, 2):
        await client.put(
            "/v1/ensembles/zoo/aliases/a", json={"version": version}, headers=match("*")
        )

    async def pages(path: str, limit: int) -> list[dict[str, object]]:
        items: list[dict[str, object]] = []
        params: dict[str, object] = {"limit": limit}
        while True:
            page = (await client.get(path, params=params)).json()
            items += page["items"]
            if page["next_cursor"] is None:
                return items
            params["cursor"] = page["next_cursor"]

    for limit in (1, 2, 3, 100):
        listed = await pages("/v1/ensembles/zoo/aliases", limit)
        assert [(each["alias"], each["version"]) for each in listed] == [
            ("a", 2),
            ("b", 1),
            ("c", 1),
        ]
        moves = await pages("/v1/ensembles/zoo/aliases/a/history", limit)
        assert [(each["move"], each["version"]) for each in moves] == [
            (4, 2),
            (3, 1),
            (2, 2),
            (1, 1),
        ]
    gone = await pages(f"{url}/history", 10)
    assert (gone[0]["move"], gone[0]["versions"]) == (2, [])
    times = [str(each["moved_at"]) for each in moves]
    assert times == sorted(times, reverse=True)
    for path in ("/v1/ensembles/zoo/aliases/none/history", "/v1/ensembles/no/aliases"):
        assert (await client.get(path)).status_code == 404
    for bad in ({"cursor": "0"}, {"cursor": "x"}, {"limit": "0"}, {"limit": "1001"}):
        history = await client.get("/v1/ensembles/zoo/aliases/a/history", params=bad)
        assert (history.status_code, slug(history)) == (422, "invalid-request")


async def test_classification_follows_the_alias_and_says_who_answered(
    client: httpx.AsyncClient, two: tuple[str, str], image: Images
) -> None:
    unknown = await client.post(CLASSIFY, content=image())
    assert (unknown.status_code, slug(unknown)) == (404, "not-found")
    await client.put(PROD, json={"version": 1}, headers=NEW)
    for round_, version in enumerate([1, 2, 1, 2], 1):
        await client.put(PROD, json={"version": version}, headers=match("*"))
        answer = (await client.post(CLASSIFY, content=image())).json()
        wanted = {"name": "zoo", "version": version, "digest": two[version - 1]}
        assert answer["ensemble"] == wanted, round_
        direct = await client.post(f"/v1/ensembles/zoo@{version}/classify", content=image())
        assert answer["predictions"] == direct.json()["predictions"]
        bare = await client.post("/v1/ensembles/zoo/classify", content=image())
        assert bare.json()["ensemble"]["version"] == 2  # the last that succeeded, as ever
    await client.delete(PROD, headers=match("*"))
    assert (await client.post(CLASSIFY, content=image())).status_code == 404


async def test_a_move_shows_at_once_in_its_own_process_and_elsewhere_within_the_ttl(
    open_client: Opener, two: tuple[str, str], image: Images
) -> None:
    async with open_client(resolve_ttl_s=0.5) as here, open_client(resolve_ttl_s=0.5) as there:
        await here.put(PROD, json={"version": 1}, headers=NEW)
        for client in (here, there):
            answer = (await client.post(CLASSIFY, content=image())).json()
            assert answer["ensemble"]["version"] == 1
        await here.put(PROD, json={"version": 2}, headers=match('"1"'))
        moved_s = asyncio.get_running_loop().time()
        answer = (await here.post(CLASSIFY, content=image())).json()
        assert answer["ensemble"]["digest"] == two[1]
        await asyncio.sleep(max(0, moved_s + 0.55 - asyncio.get_running_loop().time()))
        answer = (await there.post(CLASSIFY, content=image())).json()
        assert answer["ensemble"]["digest"] == two[1]


async def test_a_split_alias_assigns_whole_requests(
    client: httpx.AsyncClient, two: tuple[str, str], image: Images
) -> None:
    await client.put(PROD, json=HALVES, headers=NEW)
    direct = {
        version: (await client.post(f"/v1/ensembles/zoo@{version}/classify", content=image()))
        for version in (1, 2)
    }
    files = [("images", ("x", image()))] * 3
    seen: Counter[int] = Counter()
    for _ in range(40):
        answer = (await client.post(CLASSIFY, files=files)).json()
        version = answer["ensemble"]["version"]
        seen[version] += 1
        assert answer["ensemble"]["digest"] == two[version - 1]
        assert answer["predictions"] == direct[version].json()["predictions"] * 3
    assert set(seen) == {1, 2}  # each alone has a chance of 2^-40
    metrics = (await client.get("/metrics")).text
    for version in (1, 2):
        line = f'hgprompt_alias_requests_total{{alias="zoo@prod",version="{version}"}}'
        assert f"{line} {float(seen[version])}" in metrics


@pytest.mark.usefixtures("two")
async def test_only_classifications_are_counted_as_assigned(
    client: httpx.AsyncClient, image: Images
) -> None:
    await client.put(PROD, json=HALVES, headers=NEW)
    for path in ("", "/ready", "/config", "/stats"):
        assert (await client.get(f"/v2/models/zoo@prod{path}")).status_code == 200
    assert (await client.post("/v1/ensembles/zoo@1/classify", content=image())).is_success
    assert "hgprompt_alias_requests_total{" not in (await client.get("/metrics")).text


@pytest.mark.usefixtures("two")
async def test_requests_of_one_key_stay_with_one_version(
    client: httpx.AsyncClient, image: Images
) -> None:
    async def versions() -> dict[str, int]:
        found: dict[str, int] = {}
        for key in map(str, range(30)):
            header = {"HGPrompt-Assignment-Key": key}
            answer = await client.post(CLASSIFY, content=image(), headers=header)
            found[key] = answer.json()["ensemble"]["version"]
        return found

    await client.put(PROD, json=HALVES, headers=NEW)
    before = await versions()
    assert set(before.values()) == {1, 2}
    assert await versions() == before
    more = {"versions": [{"version": 1, "weight": 0.2}, {"version": 2, "weight": 0.8}]}
    await client.put(PROD, json=more, headers=match("*"))
    after = await versions()
    assert all(after[key] == 2 for key, version in before.items() if version == 2)
    await client.put(PROD, json=HALVES, headers=match("*"))
    assert await versions() == before
    for bad in ("", "x" * 256):
        header = {"HGPrompt-Assignment-Key": bad}
        refused = await client.post(CLASSIFY, content=image(), headers=header)
        assert (refused.status_code, refused.json()["field"]) == (422, "HGPrompt-Assignment-Key")


@pytest.mark.parametrize("reference", ["zoo@", "zoo@0", "zoo@01", "zoo@P", "zoo@a@b", "@prod"])
async def test_what_is_no_reference_is_refused(
    client: httpx.AsyncClient, image: Images, reference: str
) -> None:
    refused = await client.post(f"/v1/ensembles/{reference}/classify", content=image())
    assert (refused.status_code, slug(refused)) == (422, "invalid-name")


async def test_prompts_have_aliases_and_fits_resolve_them_when_asked_for(
    client: httpx.AsyncClient,
    make_prompt: Callable[..., bytes],
    make_task: Callable[..., bytes],
    ensembles: EnsembleStore,
) -> None:
    digests: list[str] = []
    for seed in (1, 2):
        put = await client.put("/v1/prompts/count", content=make_prompt(seed))
        digests.append(put.json()["digest"])
    await client.put("/v1/tasks/animals", content=make_task(cat=6, dog=6))
    url = "/v1/prompts/count/aliases/prod"
    fit = {"name": "mix", "task": "animals", "sources": ["count@prod"], "method": "single"}
    unknown = await client.post("/v1/ensembles", json=fit)
    assert (unknown.status_code, slug(unknown)) == (422, "unknown-source")
    assert "count in prompts has no alias prod" in unknown.json()["detail"]

    created = await client.put(url, json={"version": 1}, headers=NEW)
    assert (created.status_code, created.headers["etag"]) == (201, '"1"')
    assert (await client.get(url)).json() == created.json()
    first = await client.post("/v1/ensembles", json=fit)
    assert first.status_code == 202, first.text
    assert (await client.put(url, json={"version": 2}, headers=match('"1"'))).status_code == 200
    second = await client.post("/v1/ensembles", json=fit)
    for answer, version in ((first, 1), (second, 2)):
        sources = [{"name": "count", "version": version, "digest": digests[version - 1]}]
        assert answer.json()["sources"] == sources
    request = ensembles.request(FitId("mix", 1))
    assert request.sources[0].digest == digests[0]  # what was asked for then

    for body, status in (
        ({"version": 3}, 422),
        ({"versions": [{"version": 1, "weight": 1}]}, 422),
        ({"version": True}, 422),
    ):
        assert (await client.put(url, json=body, headers=match("*"))).status_code == status
    assert (await client.put(url, json={"version": 1})).status_code == 428
    assert (await client.put(url, json={"version": 1}, headers=NEW)).status_code == 412
    listed = (await client.get("/v1/prompts/count/aliases")).json()
    assert [(each["alias"], each["version"]) for each in listed["items"]] == [("prod", 2)]
    history = (await client.get(f"{url}/history", params={"limit": 1})).json()
    assert ([each["move"] for each in history["items"]], history["next_cursor"]) == ([2], "2")
    assert (await client.delete(url, headers=match('"2"'))).status_code == 204
    assert (await client.post("/v1/ensembles", json=fit)).status_code == 422
    nobody = "/v1/prompts/none/aliases"
    assert (await client.get(nobody)).status_code == 404
    answer = await client.put(f"{nobody}/prod", json={"version": 1}, headers=NEW)
    assert (answer.status_code, slug(answer)) == (404, "not-found")


async def test_deleting_a_prompt_takes_its_aliases_along(
    client: httpx.AsyncClient, make_prompt: Callable[..., bytes]
) -> None:
    url = "/v1/prompts/count/aliases/prod"
    await client.put("/v1/prompts/count", content=make_prompt(1))
    await client.put(url, json={"version": 1}, headers=NEW)
    assert (await client.delete("/v1/prompts/count")).status_code == 204
    for path in (url, "/v1/prompts/count/aliases"):
        assert (await client.get(path)).status_code == 404
    again = await client.put("/v1/prompts/count", content=make_prompt(1))
    assert (await client.get(url)).status_code == 404
    assert (await client.get("/v1/prompts/count/aliases")).json()["items"] == []
    version = {"version": again.json()["version"]}
    stale = await client.put(url, json=version, headers=match('"1"'))
    assert stale.status_code == 412
    fresh = await client.put(url, json=version, headers=NEW)
    assert (fresh.status_code, fresh.headers["etag"]) == (201, '"2"')


@pytest.mark.usefixtures("two")
async def test_without_the_store_aliases_cannot_be_moved_and_go_on_serving(
    client: httpx.AsyncClient, objects: ObjectStore, image: Images
) -> None:
    await client.put(PROD, json=HALVES, headers=NEW)
    headers = [{"HGPrompt-Assignment-Key": key} for key in "abcdefgh"]

    async def answers() -> list[dict[str, object]]:
        found = [await client.post(CLASSIFY, content=image(), headers=each) for each in headers]
        assert {answer.status_code for answer in found} == {200}
        return [{k: v for k, v in a.json().items() if k != "timing_ms"} for a in found]

    before = await answers()
    root = objects._root
    root.rename(root.with_name("away"))
    root.write_text("not a folder")
    for answer in (
        await client.get(PROD),
        await client.put(PROD, json={"version": 1}, headers=match("*")),
        await client.delete(PROD, headers=match("*")),
        await client.get("/v1/ensembles/zoo/aliases"),
        await client.get(f"{PROD}/history"),
    ):
        assert (answer.status_code, slug(answer)) == (503, "store-unavailable")
        assert answer.headers["retry-after"]
    assert await answers() == before
    root.unlink()
    root.with_name("away").rename(root)
    moved = await client.put(PROD, json={"version": 1}, headers=match('"1"'))
    assert moved.status_code == 200
    assert {a["ensemble"]["version"] for a in await answers()} == {1}


@pytest.mark.usefixtures("two")
async def test_roles_split_aliases_as_everything_else(open_client: Opener, image: Images) -> None:
    async with open_client(role="api") as api, open_client(role="classifier") as classifier:
        assert (await api.put(PROD, json={"version": 1}, headers=NEW)).status_code == 201
        answer = await classifier.post(CLASSIFY, content=image())
        assert answer.json()["ensemble"]["version"] == 1
        assert (await classifier.get(PROD)).status_code == 404
        assert slug(await api.post(CLASSIFY, content=image())) == "no-such-route"
