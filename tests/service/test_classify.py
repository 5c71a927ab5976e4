import asyncio
import base64
import re
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from backbones.info import LoadedBackbone
from images.decoding import ImageLimits, decode_image
from images.preprocessing import preprocess
from jobs.ensembles import EnsembleStore
from jobs.records import FitId
from prompt_store.artifacts import Artifact
from service.routes import classify as classify_route

pytestmark = pytest.mark.anyio

Publish = Callable[..., tuple[FitId, str]]
Images = Callable[..., bytes]
Opener = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]
URL = "/v1/ensembles/zoo/classify"


def slug(response: httpx.Response) -> str:
    assert response.headers["content-type"] == "application/problem+json"
    return response.json()["type"].removeprefix("urn:hgprompt:problem:")


class Gate:
    """Holds up the real backbone's forward passes until it is opened."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.waiting = threading.Semaphore(0)
        self.sizes: list[int] = []

    def __call__(self, _: object, arguments: tuple[torch.Tensor, ...]) -> None:
        self.sizes.append(len(arguments[0]))
        self.waiting.release()
        assert self.open.wait(30)

    async def reached(self) -> None:
        assert await asyncio.to_thread(self.waiting.acquire, timeout=30)


@pytest.fixture
def gate(loaded: LoadedBackbone) -> Iterator[Gate]:
    gate = Gate()
    hook = loaded.vit.vit.patch_embed.register_forward_pre_hook(gate)
    yield gate
    gate.open.set()
    hook.remove()


@torch.inference_mode()
def expected(loaded: LoadedBackbone, artifact: Artifact, data: bytes) -> np.ndarray:
    pixels = preprocess(decode_image(data, ImageLimits()), loaded.info.preprocessing)
    prompt = torch.from_numpy(artifact.prompt_embeddings)
    feature = loaded.vit(torch.from_numpy(pixels)[None], prompt)[0]
    logits = torch.from_numpy(artifact.head_weight) @ feature + torch.from_numpy(artifact.head_bias)
    return logits.softmax(-1).numpy()


async def test_a_raw_image_is_classified(
    client: httpx.AsyncClient,
    publish: Publish,
    image: Images,
    loaded: LoadedBackbone,
    make_artifact: Callable[..., Artifact],
) -> None:
    _, digest = publish("zoo", seed=3)
    response = await client.post(URL, content=image(1))
    assert response.status_code == 200
    answer = response.json()
    assert answer["ensemble"] == {"name": "zoo", "version": 1, "digest": digest}
    assert set(answer["timing_ms"]) == {"decode", "queue", "forward"}
    wanted = expected(loaded, make_artifact(3), image(1))
    (row,) = answer["predictions"]
    assert [entry["index"] for entry in row] == list(np.argsort(-wanted))
    assert [entry["label"] for entry in row] == [["cat", "dog", "owl"][e["index"]] for e in row]
    np.testing.assert_allclose([e["probability"] for e in row], sorted(wanted)[::-1], atol=1e-5)


async def test_all_forms_of_a_request_give_the_same_answer(
    client: httpx.AsyncClient, publish: Publish, image: Images
) -> None:
    publish("zoo")
    data = [image(i, kind=kind) for i, kind in enumerate(["PNG", "JPEG", "WEBP"])]
    alone = [(await client.post(URL, content=each)).json()["predictions"][0] for each in data]
    files = [("images", (f"{i}.bin", each)) for i, each in enumerate(data)]
    multipart = (await client.post(URL, files=files)).json()["predictions"]
    encoded = [base64.b64encode(each).decode() for each in data]
    as_json = (await client.post(URL, json={"images": encoded})).json()["predictions"]
    assert multipart == alone
    assert as_json == alone


async def test_top_k_and_a_fixed_version(
    client: httpx.AsyncClient, publish: Publish, image: Images
) -> None:
    _, first = publish("zoo", seed=1)
    _, second = publish("zoo", seed=2)
    one = (await client.post(f"{URL}?top_k=1", content=image())).json()
    assert (len(one["predictions"][0]), one["ensemble"]["digest"]) == (1, second)
    old = (await client.post("/v1/ensembles/zoo@1/classify?top_k=50", content=image())).json()
    assert (len(old["predictions"][0]), old["ensemble"]["digest"]) == (3, first)
    for bad in ("0", "-1", "x", "1e3", "10001", ""):
        refused = await client.post(URL, params={"top_k": bad}, content=image())
        assert (refused.status_code, refused.json()["field"]) == (422, "top_k"), bad


async def test_a_large_reply_is_written_beside_the_event_loop(
    client: httpx.AsyncClient,
    publish: Publish,
    image: Images,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    publish("zoo", classes=[f"class-{i}" for i in range(600)])
    writers: list[threading.Thread] = []
    document = classify_route._document

    def watched(*args: Any) -> dict[str, Any]:
        writers.append(threading.current_thread())
        return document(*args)

    monkeypatch.setattr(classify_route, "_document", watched)
    few, all_ = [
        (await client.post(f"/v1/ensembles/zoo/classify?top_k={k}", content=image())).json()
        for k in (5, 600)
    ]

    assert all_["predictions"][0][:5] == few["predictions"][0]
    assert len(all_["predictions"][0]) == 600
    assert [thread is threading.main_thread() for thread in writers] == [True, False]


async def test_a_bad_image_fails_its_own_row_and_alone_it_is_refused(
    client: httpx.AsyncClient, publish: Publish, image: Images
) -> None:
    publish("zoo")
    alone = await client.post(URL, content=b"<svg/>")
    assert (alone.status_code, slug(alone)) == (415, "not-an-image")
    files = [("images", ("a", each)) for each in (image(1), b"<svg/>", image(1)[:200], image(1))]
    rows = (await client.post(URL, files=files)).json()["predictions"]
    good = (await client.post(URL, content=image(1))).json()["predictions"][0]
    assert (rows[0], rows[3]) == (good, good)
    for row in rows[1:3]:
        assert row["error"]["type"] == "urn:hgprompt:problem:not-an-image"
        assert row["error"]["status"] == 415


@pytest.mark.parametrize(
    ("arguments", "status", "problem"),
    [
        ({"content": b""}, 422, "no-image"),
        ({"json": {"images": []}}, 422, "no-image"),
        ({"json": {"pictures": []}}, 422, "malformed-images"),
        ({"json": ["x"]}, 422, "malformed-images"),
        ({"json": {"images": ["%%%"]}}, 422, "malformed-images"),
        ({"json": {"images": [1]}}, 422, "malformed-images"),
        ({"json": {"images": ["aaaa"] * 5}}, 422, "too-many-images"),
        ({"files": [("images", b"x")] * 5}, 422, "too-many-images"),
        ({"files": [("pictures", b"x")]}, 400, "malformed-images"),
        (
            {"content": b"{", "headers": {"Content-Type": "application/json"}},
            400,
            "malformed-json",
        ),
        (
            {"content": b"x", "headers": {"Content-Type": "multipart/form-data"}},
            400,
            "malformed-images",
        ),
        (
            {"content": b"x", "headers": {"Content-Type": "multipart/form-data; boundary=b"}},
            400,
            "malformed-images",
        ),
        ({"content": bytes(100_001)}, 413, "body-too-large"),
    ],
)
async def test_a_broken_request_is_refused(
    open_client: Opener,
    publish: Publish,
    arguments: dict[str, object],
    status: int,
    problem: str,
) -> None:
    publish("zoo")
    async with open_client(max_images_per_request=4, max_classify_body_bytes=100_000) as client:
        response = await client.post(URL, **arguments)
        assert (response.status_code, slug(response)) == (status, problem)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b'{"images": ["aGk="], "top_k": 1}', "top_k"),
        ('{"images": ["aGk="], "k\u00e4se": 1}'.encode(), "k\u00e4se"),
        (b'{"images": ["%%"]}', "images[0]"),
        (b'{"images": ["aGk=", 1]}', "images[1]"),
        (b'{"pictures": []}', "pictures"),
        (b'{"images": null}', "images"),
        (b"{}", "images"),
    ],
)
async def test_what_is_wrong_in_json_is_named(
    client: httpx.AsyncClient, publish: Publish, body: bytes, field: str
) -> None:
    publish("zoo")
    headers = {"Content-Type": "application/json"}
    refused = await client.post(URL, content=body, headers=headers)
    assert (refused.status_code, slug(refused)) == (422, "malformed-images")
    assert refused.json()["field"] == field
    assert f"`{field}`" in refused.json()["detail"] or "images" in refused.json()["detail"]


@pytest.mark.parametrize(
    "broken", ["%%", "aGk=\n", "data:image/png;base64,aGk=", "aG", "k\u00e4se"]
)
async def test_an_image_that_is_no_base64_fails_only_its_own_row(
    client: httpx.AsyncClient, publish: Publish, image: Images, broken: str
) -> None:
    publish("zoo")
    alone = (await client.post(URL, content=image(1))).json()["predictions"]
    good = base64.b64encode(image(1)).decode()
    answer = await client.post(URL, json={"images": [good, broken, good]})
    assert answer.status_code == 200
    first, second, third = answer.json()["predictions"]
    assert [first, third] == alone * 2
    problem = second["error"]
    assert (problem["status"], problem["field"]) == (422, "images[1]")
    assert problem["detail"].startswith("images[1] is not base64: ")


async def test_images_of_which_none_is_base64_have_a_problem_each(
    client: httpx.AsyncClient, publish: Publish
) -> None:
    publish("zoo")
    answer = await client.post(URL, json={"images": ["%", "%%"]})
    assert answer.status_code == 200
    fields = [each["error"]["field"] for each in answer.json()["predictions"]]
    assert fields == ["images[0]", "images[1]"]


@pytest.mark.parametrize("names", [["top_k"], ["images"], ["top_k", "images"]])
async def test_a_part_that_is_no_file_is_told_so(
    client: httpx.AsyncClient, publish: Publish, image: Images, names: list[str]
) -> None:
    publish("zoo")
    fields = [(name, (None, "3")) for name in names]
    refused = await client.post(URL, files=[("images", image(1)), *fields])
    assert (refused.status_code, slug(refused)) == (400, "malformed-images")
    detail = f"part {names[0]!r} is not a file; each must be a file named 'images'"
    assert refused.json()["detail"] == detail
    assert refused.json()["field"] == "images"


async def test_an_image_above_the_limit_is_413(
    open_client: Opener, publish: Publish, image: Images
) -> None:
    publish("zoo")
    async with open_client(max_image_pixels=99, max_image_bytes=10_000) as client:
        too_large = {"pixels": (image(size=(10, 10)), 99), "bytes": (bytes(10_001), 10_000)}
        for field, (data, limit) in too_large.items():
            refused = await client.post(URL, content=data)
            assert (refused.status_code, slug(refused)) == (413, "image-too-large")
            assert (refused.json()["field"], refused.json()["limit"]) == (field, limit)
        assert (await client.post(URL, content=image(size=(9, 11)))).status_code == 200


@pytest.mark.parametrize("path", ["/v1/ensembles/nothing/classify", "/v2/models/nothing/infer"])
async def test_nothing_is_read_for_a_name_that_does_not_exist(
    client: httpx.AsyncClient, path: str
) -> None:
    """What is read takes room from others, and each invented name would have a share."""
    num_read = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal num_read
        num_read += 1
        yield b"{}"

    refused = await client.post(path, content=body())
    assert refused.status_code == 404
    assert num_read == 0


async def test_what_cannot_be_served_is_named(
    client: httpx.AsyncClient,
    ensembles: EnsembleStore,
    publish: Publish,
    image: Images,
    make_spec: Callable[..., object],
) -> None:
    async def refusal(reference: str) -> tuple[int, str]:
        response = await client.post(f"/v1/ensembles/{reference}/classify", content=image())
        return response.status_code, slug(response)

    assert await refusal("nothing") == (404, "ensemble-not-found")
    ensembles.create(make_spec("zoo"))
    assert await refusal("zoo") == (409, "ensemble-not-ready")
    assert await refusal("zoo@1") == (409, "ensemble-not-ready")
    assert await refusal("zoo@2") == (404, "ensemble-not-found")
    assert await refusal("zoo@x") == (404, "not-found")
    assert await refusal("zoo@X") == (422, "invalid-name")
    assert await refusal("Zoo") == (422, "invalid-name")
    assert await refusal(f"sha256:{'0' * 64}") == (422, "invalid-name")
    publish("alien", backbone_digest=f"sha256:{'f' * 64}")
    assert await refusal("alien") == (409, "backbone-mismatch")


async def test_a_refit_is_served_as_soon_as_it_has_succeeded(
    open_client: Opener,
    ensembles: EnsembleStore,
    publish: Publish,
    image: Images,
    make_spec: Callable[..., object],
) -> None:
    _, first = publish("zoo", seed=1)
    async with open_client(resolve_ttl_s=0.05) as client:

        async def served() -> str:
            return (await client.post(URL, content=image())).json()["ensemble"]["digest"]

        assert await served() == first
        ensembles.create(make_spec("zoo"))
        await asyncio.sleep(0.1)
        assert await served() == first
        _, third = publish("zoo", seed=2)
        await asyncio.sleep(0.1)
        assert await served() == third


async def test_whoever_was_told_of_a_success_is_served_by_it_at_once(
    open_client: Opener, publish: Publish, image: Images
) -> None:
    async with open_client(resolve_ttl_s=1.0) as client:
        for seed in range(4):
            _, digest = publish("zoo", seed=seed)
            told = ("/v1/ensembles/zoo", f"/v1/ensembles/zoo/events?version={seed + 1}")[seed % 2]
            assert (await client.get(told)).status_code == 200
            answer = (await client.post(URL, content=image())).json()
            assert answer["ensemble"]["digest"] == digest


async def test_resident_ensembles_are_served_while_the_store_is_away(
    open_client: Opener, publish: Publish, image: Images
) -> None:
    publish("zoo")
    async with open_client(role="classifier") as client:
        before = (await client.post(URL, content=image())).json()
        root = client._transport.app.state.parts.objects._root
        away = root.with_name("away")
        root.rename(away)
        root.write_text("not a folder")
        try:
            during = await client.post(URL, content=image())
            fresh = await client.post("/v1/ensembles/other/classify", content=image())
        finally:
            root.unlink()
            away.rename(root)
    assert during.json()["predictions"] == before["predictions"]
    assert (fresh.status_code, slug(fresh)) == (503, "store-unavailable")
    assert fresh.headers["retry-after"]


async def test_requests_of_many_ensembles_share_a_batch(
    client: httpx.AsyncClient, publish: Publish, image: Images, gate: Gate
) -> None:
    digests = {f"zoo{i}": publish(f"zoo{i}", seed=i)[1] for i in range(6)}
    calls = {
        name: asyncio.create_task(client.post(f"/v1/ensembles/{name}/classify", content=image(i)))
        for i, name in enumerate(digests)
    }
    await gate.reached()
    await wait_until(lambda: num_with_the_engine(client) == 6)
    gate.open.set()
    for name, call in calls.items():
        assert (await call).json()["ensemble"]["digest"] == digests[name]
    assert sum(gate.sizes) == 6
    assert len(gate.sizes) <= 3


async def test_the_versions_of_an_ensemble_take_one_share_of_the_engine(
    client: httpx.AsyncClient, publish: Publish, image: Images, gate: Gate
) -> None:
    for seed in (1, 2):
        publish("zoo", seed=seed)
    calls = [
        asyncio.create_task(client.post(f"/v1/ensembles/zoo@{version}/classify", content=image()))
        for version in (1, 2)
    ]
    await gate.reached()
    await wait_until(lambda: num_with_the_engine(client) == 2)
    waiting = client._transport.app.state.classifier.engine._waiting
    assert {row.tenant for row in waiting} == {"zoo"}
    gate.open.set()
    assert [(await call).status_code for call in calls] == [200, 200]


async def test_cancelling_one_request_leaves_its_batch_mates_alone(
    client: httpx.AsyncClient, publish: Publish, image: Images, gate: Gate
) -> None:
    publish("zoo")
    first = asyncio.create_task(client.post(URL, content=image(0)))
    await gate.reached()
    queued = [asyncio.create_task(client.post(URL, content=image(i))) for i in range(1, 5)]
    await wait_until(lambda: depth(client) == 5)
    queued[1].cancel()
    first.cancel()  # this one is in the running batch
    await asyncio.gather(first, queued[1], return_exceptions=True)
    await wait_until(lambda: depth(client) == 3)
    gate.open.set()
    for i in (0, 2, 3):
        response = await asyncio.wait_for(queued[i], 30)
        alone = await client.post(URL, content=image(i + 1))
        assert response.json()["predictions"] == alone.json()["predictions"]
    assert depth(client) == 0


async def test_a_dropped_connection_frees_its_row(
    client: httpx.AsyncClient, publish: Publish, image: Images, gate: Gate
) -> None:
    """As a server tells it: the body, then that the client has gone."""
    publish("zoo")
    running = asyncio.create_task(client.post(URL, content=image(0)))
    await gate.reached()
    hung_up = asyncio.Event()
    sent: list[dict[str, object]] = []
    coming = [{"type": "http.request", "body": image(1), "more_body": False}]

    async def receive() -> dict[str, object]:
        if coming:
            return coming.pop()
        await hung_up.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "path": URL,
        "raw_path": URL.encode(),
        "query_string": b"",
        "headers": [],
        "scheme": "http",
        "server": ("test", 80),
        "client": ("test", 1),
        "root_path": "",
    }
    dropped = asyncio.create_task(client._transport.app(scope, receive, send))
    await wait_until(lambda: depth(client) == 2)
    hung_up.set()
    await asyncio.wait_for(dropped, 30)
    assert sent[0]["status"] == 499
    assert depth(client) == 1
    gate.open.set()
    assert (await running).status_code == 200
    assert sum(gate.sizes) == 1  # the dropped row was never computed


async def test_a_full_queue_is_429_and_recovers(
    open_client: Opener, publish: Publish, image: Images, gate: Gate
) -> None:
    publish("zoo")
    async with open_client(max_queue=4) as client:
        calls = [asyncio.create_task(client.post(URL, content=image(i))) for i in range(3)]
        await gate.reached()
        await wait_until(lambda: depth(client) == 3)
        refused = await client.post(URL, content=image())
        assert (refused.status_code, slug(refused)) == (429, "queue-full")
        assert int(refused.headers["retry-after"]) >= 1
        gate.open.set()
        assert [(await call).status_code for call in calls] == [200] * 3
        assert (await client.post(URL, content=image())).status_code == 200


async def test_bodies_in_memory_are_bounded(
    open_client: Opener, publish: Publish, image: Images
) -> None:
    publish("zoo")
    data = image()
    async with open_client(max_inflight_bytes=len(data)) as client:
        assert (await client.post(URL, content=data)).status_code == 200
        refused = await client.post(URL, content=data + b"x")
        assert (refused.status_code, slug(refused)) == (429, "queue-full")
        assert (await client.post(URL, content=data)).status_code == 200


async def test_a_deadline_that_passes_is_504_and_the_queue_goes_on(
    open_client: Opener, publish: Publish, image: Images, gate: Gate
) -> None:
    publish("zoo")
    async with open_client(request_deadline_s=0.3) as client:
        running = asyncio.create_task(client.post(URL, content=image(0)))
        await gate.reached()
        late = await client.post(URL, content=image(1))
        assert (late.status_code, slug(late)) == (504, "deadline-exceeded")
        assert (await running).status_code == 504
        assert depth(client) == 0
        gate.open.set()
        assert (await client.post(URL, content=image(1))).status_code == 200


async def test_a_failing_forward_pass_is_500_and_the_engine_goes_on(
    client: httpx.AsyncClient, publish: Publish, image: Images, loaded: LoadedBackbone
) -> None:
    publish("zoo")

    def fail(*_: object) -> None:
        raise RuntimeError("secret device state")

    hook = loaded.vit.vit.patch_embed.register_forward_pre_hook(fail)
    try:
        for _ in range(3):
            broken = await client.post(URL, content=image())
            assert (broken.status_code, slug(broken)) == (500, "forward-failed")
            assert "secret" not in broken.text
        for path in ("/livez", "/readyz"):
            assert (await client.get(path)).status_code == 503
    finally:
        hook.remove()
    assert (await client.post(URL, content=image())).status_code == 200
    assert (await client.get("/livez")).status_code == 200


async def test_more_ensembles_than_may_stay_resident(
    open_client: Opener, publish: Publish, image: Images
) -> None:
    digests = [publish(f"zoo{i}", seed=i)[1] for i in range(12)]
    async with open_client(resident_device_bytes=25_000, resident_host_bytes=25_000) as client:
        for _ in range(2):
            calls = [
                client.post(f"/v1/ensembles/zoo{i}/classify", content=image(0)) for i in range(12)
            ]
            answers = [response.json() for response in await asyncio.gather(*calls)]
            assert [answer["ensemble"]["digest"] for answer in answers] == digests
            assert len({str(answer["predictions"]) for answer in answers}) == 12
        for _ in range(100):  # copies to main memory end a moment later
            gauges = await artifact_gauges(client)
            if gauges["hgprompt_host_memory_artifacts"] == 2:
                break
            await asyncio.sleep(0.05)
    assert gauges["hgprompt_resident_artifacts"] == gauges["hgprompt_host_memory_artifacts"] == 2
    assert 16_000 < gauges["hgprompt_resident_bytes"] <= 25_000
    assert 16_000 < gauges["hgprompt_host_memory_bytes"] <= 25_000


async def artifact_gauges(client: httpx.AsyncClient) -> dict[str, float]:
    text = (await client.get("/metrics")).text
    found = re.findall(r"^(hgprompt_(?:resident|host_memory)_\w+) (\S+)$", text, re.MULTILINE)
    return {name: float(value) for name, value in found}


async def test_the_answer_is_always_that_of_the_digest_it_reports(
    client: httpx.AsyncClient, publish: Publish, image: Images
) -> None:
    """Refit under load: whatever version answers, its digest is that of what computed it."""
    known: dict[str, object] = {}
    for seed in range(4):
        _, digest = publish("other", seed=seed)
        answer = (await client.post("/v1/ensembles/other/classify", content=image(0))).json()
        known[digest] = answer["predictions"]
    done = asyncio.Event()
    seen: set[str] = set()

    async def load() -> None:
        while not done.is_set():
            answer = (await client.post(URL, content=image(0))).json()
            assert answer["predictions"] == known[answer["ensemble"]["digest"]]
            seen.add(answer["ensemble"]["digest"])

    publish("zoo", seed=0)
    clients = [asyncio.create_task(load()) for _ in range(4)]
    for seed in (1, 2, 3):
        await asyncio.to_thread(publish, "zoo", seed=seed)
        await asyncio.sleep(0.15)
    done.set()
    await asyncio.gather(*clients)
    assert seen == set(known)


def depth(client: httpx.AsyncClient) -> int:
    return client._transport.app.state.classifier.admission.num_images


def num_with_the_engine(client: httpx.AsyncClient) -> int:
    """Images that are decoded and have no answer yet."""
    return len(client._transport.app.state.classifier.engine._waiting)


async def wait_until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - the service has no event to wait for
            await asyncio.sleep(0.01)
