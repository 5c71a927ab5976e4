import asyncio
import json
import threading
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest

from jobs.records import FitId
from service.inference.resolver import Served
from service.inference.rows import RowResult
from service.oip.statistics import MAX_MODELS, ModelStatistics, statistics_json
from service.oip.version_statistics import VersionStatistics

LENGTH = "Inference-Header-Content-Length"


@pytest.mark.anyio
async def test_a_request_refused_for_want_of_room_is_a_failure(
    open_client: Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]],
    publish: Callable[..., tuple[FitId, str]],
    image: Callable[..., bytes],
) -> None:
    publish("zoo")
    two = {"name": "image", "datatype": "BYTES", "shape": [2], "data": ["aaaa", "aaaa"]}
    async with open_client(max_queue=1) as client:
        url = "/v2/models/zoo"
        assert (await client.post(f"{url}/infer", json={"inputs": [two]})).status_code == 429
        answer = await client.post(f"{url}/infer", content=image(0), headers={LENGTH: "0"})
        assert answer.status_code == 200
        stats = (await client.get(f"{url}/stats")).json()["model_stats"][0]["inference_stats"]
        assert (stats["fail"]["count"], stats["success"]["count"]) == (1, 1)
        transport: Any = client._transport
        with transport.app.state.classifier.admission.images("other", 1):  # before the body is read
            full = await client.post(f"{url}/infer", content=image(0), headers={LENGTH: "0"})
        assert full.status_code == 429
        stats = (await client.get(f"{url}/stats")).json()["model_stats"][0]["inference_stats"]
        assert (stats["fail"]["count"], stats["success"]["count"]) == (2, 1)


def row(queue_s: float, forward_s: float, batch_size: int) -> RowResult:
    return RowResult(np.array([1.0], np.float32), "sha256:0", queue_s, forward_s, batch_size)


def document(statistics: ModelStatistics) -> list[dict[str, Any]]:
    found = asyncio.run(statistics.collect(None))
    return json.loads(statistics_json(found))["model_stats"]


def test_passes_are_counted_by_their_size_whoever_else_was_in_them() -> None:
    statistics = ModelStatistics(lambda: 0.0)
    zoo = Served("zoo", 1, "sha256:0")
    for rows in (
        [row(0.1, 0.5, 4), row(0.1, 0.5, 4), row(0.6, 0.25, 2)],  # two passes, the first of two
        [row(0.2, 0.5, 4)],
        [row(0.0, 0.125, 32)],
    ):
        statistics.succeeded(zoo, rows, decode_s=0.0, total_s=1.0)
    (found,) = document(statistics)
    nothing = {"count": 0, "ns": 0}
    assert found["batch_stats"] == [
        {
            "batch_size": size,
            "compute_input": nothing,
            "compute_infer": {"count": count, "ns": ns},
            "compute_output": nothing,
        }
        for size, count, ns in ((2, 1, 250_000_000), (4, 2, 1_000_000_000), (32, 1, 125_000_000))
    ]
    assert (found["inference_count"], found["execution_count"]) == (5, 4)


@pytest.mark.anyio
async def test_the_sizes_are_those_of_the_passes_that_the_engine_ran(
    open_client: Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]],
    publish: Callable[..., tuple[FitId, str]],
    image: Callable[..., bytes],
) -> None:
    publish("zoo", seed=1)
    publish("ark", seed=2)
    async with open_client(max_batch_size=4) as client:
        posts = [
            client.post(f"/v2/models/{name}/infer", content=image(i), headers={LENGTH: "0"})
            for i in range(12)
            for name in ("zoo", "ark")
        ]
        assert {each.status_code for each in await asyncio.gather(*posts)} == {200}
        ran = (await client.get("/metrics")).text
        for stats in (await client.get("/v2/models/stats")).json()["model_stats"]:
            sizes = {each["batch_size"]: each for each in stats["batch_stats"]}
            passes = [each["compute_infer"] for each in sizes.values()]
            assert sizes.keys() <= {1, 2, 3, 4}
            assert max(sizes) > 1
            assert sum(each["count"] for each in passes) == stats["execution_count"] == 12
            total_ns = stats["inference_stats"]["compute_infer"]["ns"]
            assert sum(each["ns"] for each in passes) == pytest.approx(total_ns, abs=100)
    assert "hgprompt_batch_size_sum 24.0" in ran


def test_the_versions_remembered_are_bounded() -> None:
    statistics = ModelStatistics(lambda: 0.0)
    for version in range(1, MAX_MODELS + 11):
        statistics.failed(Served("zoo", version, "sha256:0"), total_s=0.0)
    found = document(statistics)
    assert len(found) == MAX_MODELS
    assert found[0]["version"] == "11"


def test_what_is_counted_after_a_snapshot_is_not_in_it() -> None:
    statistics = ModelStatistics(lambda: 0.0)
    zoo = Served("zoo", 1, "sha256:0")
    statistics.failed(zoo, total_s=1.0)
    found = asyncio.run(statistics.collect(None))
    statistics.failed(zoo, total_s=1.0)
    (stats,) = json.loads(statistics_json(found))["model_stats"]
    assert stats["inference_stats"]["fail"] == {"count": 1, "ns": 1_000_000_000}


def test_snapshots_of_one_version_are_added_up() -> None:
    zoo = Served("zoo", 1, "sha256:0")
    found: list[msgspec.Raw] = []
    for size in (2, 4):
        statistics = ModelStatistics(lambda: 0.0)
        statistics.succeeded(zoo, [row(0.0, 0.5, size)], decode_s=0.0, total_s=1.0)
        found += asyncio.run(statistics.collect([("zoo", 1)]))
    (stats,) = json.loads(statistics_json(found))["model_stats"]
    assert (stats["inference_count"], stats["execution_count"]) == (2, 2)
    assert [each["batch_size"] for each in stats["batch_stats"]] == [2, 4]


@pytest.mark.anyio
async def test_the_document_is_made_beside_the_event_loop(
    open_client: Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]],
    publish: Callable[..., tuple[FitId, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    publish("zoo")
    threads: list[threading.Thread] = []
    document = VersionStatistics.document

    def noted(statistics: VersionStatistics) -> dict[str, Any]:
        threads.append(threading.current_thread())
        return document(statistics)

    monkeypatch.setattr(VersionStatistics, "document", noted)
    async with open_client() as client:
        answer = await client.get("/v2/models/zoo/stats")
    assert answer.headers["content-type"] == "application/json"
    assert [each["name"] for each in answer.json()["model_stats"]] == ["zoo"]
    assert len(threads) == 1
    assert threads[0] is not threading.current_thread()
