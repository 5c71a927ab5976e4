import hashlib
from collections.abc import Callable

import httpx
import pytest

from tests.service.conftest import damage_document

pytestmark = pytest.mark.anyio


async def test_a_task_is_validated_stored_and_described(
    client: httpx.AsyncClient, make_task: Callable[..., bytes]
) -> None:
    data = make_task(dog=4, cat=3)
    first = await client.put("/v1/tasks/animals", content=data)
    assert first.status_code == 201
    manifest = first.json()
    assert (manifest["classes"], manifest["counts"]) == (["cat", "dog"], [3, 4])
    assert (manifest["num_images"], manifest["format"]) == (7, "zip")
    assert manifest["digest"] == f"sha256:{hashlib.sha256(data).hexdigest()}"
    assert (await client.put("/v1/tasks/animals", content=data)).status_code == 200
    assert (await client.put("/v1/tasks/animals", content=make_task(a=2, b=2))).status_code == 201
    page = (await client.get("/v1/tasks")).json()
    assert [(item["name"], item["version"]) for item in page["items"]] == [("animals", 2)]
    versions = (await client.get("/v1/tasks/animals/versions")).json()["items"]
    assert [item["version"] for item in versions] == [1, 2]
    assert (await client.get("/v1/tasks/animals/versions/1")).json() == manifest
    assert (await client.get("/v1/tasks/animals/content?version=1")).content == data
    assert (await client.delete("/v1/tasks/animals")).status_code == 204
    assert (await client.get("/v1/tasks/animals")).status_code == 404


async def test_a_damaged_manifest_takes_no_other_task_out_of_the_list(
    client: httpx.AsyncClient,
    make_task: Callable[..., bytes],
    store_url: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for i, name in enumerate(["alpha", "bravo", "charlie"]):
        await client.put(f"/v1/tasks/{name}", content=make_task(cat=3, dog=3 + i))
    damage_document(store_url, "tasks/bravo/versions/00000001.json")
    listed = await client.get("/v1/tasks")
    assert [item["name"] for item in listed.json()["items"]] == ["alpha", "charlie"]
    assert caplog.text.count("left out: the manifest of bravo@1 in tasks is damaged") == 1
    answer = await client.get("/v1/tasks/bravo")
    assert answer.status_code == 500
    assert answer.json()["type"] == "urn:hgprompt:problem:corrupt-document"
    assert "the manifest of bravo@1 in tasks is damaged" in answer.json()["detail"]


async def test_what_is_not_labelled_images_is_refused_and_nothing_stored(
    client: httpx.AsyncClient, make_task: Callable[..., bytes]
) -> None:
    for data, status, slug in (
        (b"", 415, "not-an-archive"),
        (b"not an archive", 415, "not-an-archive"),
        (make_task(cat=3), 422, "invalid-task"),
        (make_task(cat=3, dog=2)[:-30], 422, "invalid-task"),
    ):
        refused = await client.put("/v1/tasks/animals", content=data)
        assert refused.status_code == status, refused.text
        assert refused.json()["type"] == f"urn:hgprompt:problem:{slug}"
        assert refused.json()["detail"]
    assert (await client.get("/v1/tasks/animals")).status_code == 404


async def test_an_archive_above_the_limit_is_refused(
    open_client: Callable[..., object], make_task: Callable[..., bytes]
) -> None:
    async with open_client(max_task_bytes=100) as client:
        refused = await client.put("/v1/tasks/animals", content=make_task())
        assert (refused.status_code, refused.json()["limit"]) == (413, 100)
