from collections.abc import Callable

import httpx
import pytest

from images.errors import ImagesError
from jobs.errors import JobsError
from prompt_store.errors import PromptStoreError
from service.errors import KINDS, problem_of
from service.inference.errors import InferenceError, QueueFullError

pytestmark = pytest.mark.anyio


async def test_unknown_routes_and_methods_are_problems(client: httpx.AsyncClient) -> None:
    missing = await client.get("/v1/nothing/here")
    assert (missing.status_code, missing.json()["type"]) == (
        404,
        "urn:hgprompt:problem:no-such-route",
    )
    wrong = await client.patch("/v1/prompts/fashion")
    assert wrong.status_code == 405
    assert wrong.json()["type"] == "urn:hgprompt:problem:method-not-allowed"
    assert wrong.headers["allow"] == "DELETE, GET, PUT"
    assert (
        missing.headers["content-type"]
        == wrong.headers["content-type"]
        == "application/problem+json"
    )


async def test_malformed_json_is_400(client: httpx.AsyncClient) -> None:
    headers = {"Content-Type": "application/json"}
    response = await client.post("/v1/ensembles", content=b'{"name": ', headers=headers)
    assert response.status_code == 400
    assert response.json()["type"] == "urn:hgprompt:problem:malformed-json"


async def test_every_wrong_value_is_listed_and_none_is_repeated(client: httpx.AsyncClient) -> None:
    secret = "hunter2-hunter2"
    body = {"name": secret.upper(), "task": "t", "sources": "all", "seed": -5}
    problem = (await client.post("/v1/ensembles", json=body)).json()
    assert [entry["field"] for entry in problem["errors"]] == ["name", "seed"]
    assert secret.upper() not in str(problem)


async def test_an_unforeseen_error_leaks_nothing(
    open_client: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_client() as client:
        parts = client._transport.app.state.parts
        monkeypatch.setattr(parts.prompts._series, "_objects", None)
        response = await client.get("/v1/prompts/fashion")
    assert response.status_code == 500
    assert response.json() == {
        "type": "urn:hgprompt:problem:internal",
        "title": "Internal error",
        "status": 500,
        "detail": "the service failed; its log has the details",
    }


def _subclasses(base: type[Exception]) -> set[type[Exception]]:
    found = set(base.__subclasses__())
    return found | {each for cls in found for each in _subclasses(cls)}


INTERNAL = {"FitHeldError", "FenceLostError", "FitRefusedError", "FitStoppedError"}
"""Errors of the worker's side, which no route can meet."""


@pytest.mark.parametrize("base", [PromptStoreError, JobsError, ImagesError, InferenceError])
def test_every_error_of_a_package_has_its_problem(base: type[Exception]) -> None:
    unmapped = {cls.__name__ for cls in _subclasses(base) if not KINDS.keys() & set(cls.__mro__)}
    assert unmapped - INTERNAL == set()


def test_retry_after_is_whole_seconds() -> None:
    problem = problem_of(QueueFullError("full", retry_after_s=1.2, scarce="queue"))
    assert (problem.status, problem.headers["Retry-After"]) == (429, "2")


def test_a_full_disk_is_507() -> None:
    assert problem_of(OSError(28, "No space left on device")).status == 507
    assert problem_of(OSError(5, "Input/output error")).status == 500
