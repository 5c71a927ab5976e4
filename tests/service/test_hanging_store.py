"""A store that neither answers nor fails, as a network volume whose server is gone."""

import asyncio
import base64
import threading
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import httpx
import pytest

from jobs.records import FitId
from prompt_store.objects import ObjectStore
from service.oip.repository import RepositoryIndex
from tests.service.conftest import Opener

pytestmark = pytest.mark.anyio

PATH = "/v1/ensembles/zoo/classify"
RAW = {"Inference-Header-Content-Length": "0"}
DEADLINE_S = 3.0
Hanging = Callable[[], AbstractContextManager[None]]
Publish = Callable[..., tuple[FitId, str]]
Image = Callable[..., bytes]


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Hanging:
    """Every access to the store waits for as long as the context lasts."""
    answers = threading.Event()
    answers.set()

    def waiting(access: Callable[..., Any]) -> Callable[..., Any]:
        def access_later(*args: Any, **kwargs: Any) -> Any:
            answers.wait()
            return access(*args, **kwargs)

        return access_later

    for name in ("children", "get", "list", "put_new", "size"):
        monkeypatch.setattr(ObjectStore, name, waiting(getattr(ObjectStore, name)))

    @contextmanager
    def hanging_() -> Generator[None]:
        answers.clear()
        try:
            yield
        finally:
            answers.set()

    return hanging_


async def answered(asking: Any) -> httpx.Response:
    """Wait for an answer, for not much longer than the deadline."""
    return await asyncio.wait_for(asking, DEADLINE_S + 5)


async def test_a_look_at_the_repository_that_hangs_is_not_begun_again(
    open_client: Opener, hanging: Hanging, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each would take a thread away from others."""
    publish("zoo", seed=1)
    looks, entries = 0, RepositoryIndex.entries

    def counted(self: RepositoryIndex, *, ready_only: bool = False) -> list[dict[str, Any]]:
        nonlocal looks
        looks += 1
        return entries(self, ready_only=ready_only)

    monkeypatch.setattr(RepositoryIndex, "entries", counted)
    async with open_client(request_deadline_s=0.5) as client:
        with hanging():
            asking = [answered(client.post("/v2/repository/index")) for _ in range(5)]
            assert {each.status_code for each in await asyncio.gather(*asking)} == {504}
            assert looks == 1
        after = await answered(client.post("/v2/repository/index"))
        assert [each["name"] for each in after.json()] == ["zoo"]


async def test_what_is_on_the_device_goes_on_being_served(
    open_client: Opener, hanging: Hanging, publish: Publish, image: Image
) -> None:
    _, digest = publish("zoo", seed=1)
    async with open_client(request_deadline_s=DEADLINE_S) as client:
        before = await client.post(PATH, content=image())
        assert before.json()["ensemble"]["digest"] == digest
        with hanging():
            for _ in range(3):
                after = await answered(client.post(PATH, content=image()))
                assert after.status_code == 200, after.text
                assert after.json()["predictions"] == before.json()["predictions"]


async def test_others_that_wait_for_the_store_hold_no_image_up(
    open_client: Opener, hanging: Hanging, publish: Publish, image: Image
) -> None:
    publish("zoo", seed=1)
    body = {"images": [base64.b64encode(image()).decode()]}
    async with open_client(request_deadline_s=DEADLINE_S) as client:
        assert (await client.post(f"{PATH}", json=body)).status_code == 200
        assert (await client.post("/v1/ensembles/zoo@1/classify", json=body)).status_code == 200
        with hanging():
            others = [asyncio.create_task(client.get(f"/v1/ensembles/other{i}")) for i in range(64)]
            await asyncio.sleep(0.2)
            for reference in ("zoo@1", "zoo"):
                path = f"/v1/ensembles/{reference}/classify"
                answer = await answered(client.post(path, json=body))
                assert answer.status_code == 200, answer.text
        await asyncio.gather(*others)


@pytest.mark.parametrize("path", [PATH, "/v2/models/zoo/infer"])
async def test_a_name_that_cannot_be_looked_up_is_answered_at_the_deadline(
    open_client: Opener, hanging: Hanging, publish: Publish, image: Image, path: str
) -> None:
    publish("zoo", seed=1)
    async with open_client(request_deadline_s=0.5) as client:
        with hanging():
            answer = await answered(client.post(path, content=image(), headers=RAW))
        assert answer.status_code == 504, answer.text
        assert (await client.post(path, content=image(), headers=RAW)).status_code == 200


async def test_what_is_asked_about_an_unknown_model_has_the_deadline_too(
    open_client: Opener, hanging: Hanging, publish: Publish
) -> None:
    publish("zoo", seed=1)
    asked = [("GET", f"/v2/models/zoo{path}") for path in ("", "/config", "/ready", "/stats")]
    asked += [("POST", f"/v2/repository/models/zoo/{verb}") for verb in ("load", "unload")]
    asked += [("POST", "/v2/repository/index")]
    async with open_client(request_deadline_s=0.3) as client:
        with hanging():
            for method, path in asked:
                late = await answered(client.request(method, path))
                assert (late.status_code, list(late.json())) == (504, ["error"]), path
        for method, path in asked:
            assert (await client.request(method, path)).status_code == 200, path
