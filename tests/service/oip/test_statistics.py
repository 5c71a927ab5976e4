from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import httpx
import pytest

from jobs.records import FitId
from service.inference.resolver import Served
from service.oip.statistics import MAX_MODELS, ModelStatistics

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


def test_the_versions_remembered_are_bounded() -> None:
    statistics = ModelStatistics(lambda: 0.0)
    for version in range(1, MAX_MODELS + 11):
        statistics.failed(Served("zoo", version, "sha256:0"), total_s=0.0)
    found = statistics.document()["model_stats"]
    assert len(found) == MAX_MODELS
    assert found[0]["version"] == "11"
