"""Clients that go away, late and failing images: nobody else notices, and nothing stays held."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable

import httpx
import pytest

from tests.faults.conftest import Serve
from tests.faults.server import SLOW_BACKBONE, Server

pytestmark = [pytest.mark.anyio, pytest.mark.alone]

PATH = "/v1/ensembles/zoo/classify"
Image = Callable[..., bytes]


@pytest.fixture
async def server(serve: Serve, publish_slow: Callable[..., None]) -> AsyncIterator[Server]:
    publish_slow("zoo", "farm")
    server = serve(backbone=SLOW_BACKBONE, max_batch_size=4, request_deadline_s=60)
    await asyncio.to_thread(server.wait_until_ready)
    yield server
    log = [line for line in server.log.splitlines() if '"level": "ERROR"' in line]
    assert log == []


@pytest.fixture
async def client(server: Server) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        yield client


async def predictions(client: httpx.AsyncClient, path: str, data: bytes) -> object:
    answer = await client.post(path, content=data)
    assert answer.status_code == 200, answer.text
    return answer.json()["predictions"]


async def until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 30
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < deadline_s
        await asyncio.sleep(0.02)


async def test_one_of_four_that_goes_away_leaves_the_others_their_answers(
    server: Server, client: httpx.AsyncClient, image: Image
) -> None:
    images = [image(seed) for seed in range(4)]
    alone = [await predictions(client, PATH, data) for data in images]
    before = server.metrics()["hgprompt_batch_size_sum"]
    # Behind these, the four still wait when one of them goes.
    ahead = asyncio.create_task(
        client.post(PATH, files=[("images", (str(i), image(i))) for i in range(12)])
    )
    await until(lambda: server.metrics()["hgprompt_queue_depth"] == 12)
    four = [asyncio.create_task(predictions(client, PATH, data)) for data in images]
    await until(lambda: server.metrics()["hgprompt_queue_depth"] > 12 or four[0].done())
    four[2].cancel()
    answers = await asyncio.gather(*four, return_exceptions=True)
    assert isinstance(answers[2], asyncio.CancelledError)
    assert [answers[i] for i in (0, 1, 3)] == [alone[i] for i in (0, 1, 3)]
    assert (await ahead).status_code == 200
    metrics = server.wait_until_idle()
    assert metrics["hgprompt_abandoned_images_total:disconnect"] == 1
    assert metrics["hgprompt_batch_size_sum"] - before <= 16


async def test_a_request_of_many_images_that_goes_away_is_not_computed_to_the_end(
    server: Server, client: httpx.AsyncClient, image: Image
) -> None:
    files = [("images", (str(i), image(i))) for i in range(60)]
    leaving = asyncio.create_task(client.post(PATH, files=files))
    await until(lambda: server.metrics()["hgprompt_batch_size_sum"] >= 4)  # amid its rows
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    metrics = await asyncio.to_thread(server.wait_until_idle)
    assert metrics["hgprompt_abandoned_images_total:disconnect"] == 60
    assert metrics["hgprompt_batch_size_sum"] < 40
    assert metrics["hgprompt_requests_total:POST:/v1/ensembles/{reference}/classify:499"] == 1
    await predictions(client, PATH, image())


async def test_bodies_that_stop_amid_give_their_memory_back(
    server: Server, client: httpx.AsyncClient, image: Image
) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000000\r\n\r\n".encode()
    connections = [socket.create_connection((host, int(port))) for _ in range(10)]
    for connection in connections:
        connection.sendall(head + bytes(1_000_000))
    await until(lambda: server.metrics()["hgprompt_body_bytes"] >= 9_900_000)
    assert await predictions(client, PATH, image())
    for connection in connections:
        connection.close()
    metrics = await asyncio.to_thread(server.wait_until_idle)
    assert metrics["hgprompt_requests_total:POST:/v1/ensembles/{reference}/classify:499"] == 10


async def test_images_that_fail_fail_alone(client: httpx.AsyncClient, image: Image) -> None:
    good = [image(seed) for seed in range(3)]
    alone = [await predictions(client, PATH, data) for data in good]
    bad = [b"", good[0][:100], b"<svg/>"]
    mixed = [data for pair in zip(good, bad, strict=True) for data in pair]
    answer, other = await asyncio.gather(
        client.post(PATH, files=[("images", ("x", data)) for data in mixed]),
        predictions(client, "/v1/ensembles/farm/classify", good[0]),
    )
    rows = answer.json()["predictions"]
    assert [[row] for row in rows[::2]] == alone
    assert [row["error"]["status"] for row in rows[1::2]] == [415] * 3
    assert other != alone[0]


async def test_late_images_are_given_up_and_their_room_is_free(
    serve: Serve, publish_slow: Callable[..., None], image: Image
) -> None:
    publish_slow("zoo")
    server = serve(backbone=SLOW_BACKBONE, max_batch_size=4, request_deadline_s=0.3)
    await asyncio.to_thread(server.wait_until_ready)
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        files = [("images", (str(i), image(i))) for i in range(60)]
        late = await client.post(PATH, files=files)
        assert (late.status_code, late.json()["type"]) == (
            504,
            "urn:hgprompt:problem:deadline-exceeded",
        )
        metrics = await asyncio.to_thread(server.wait_until_idle)
        assert metrics["hgprompt_abandoned_images_total:deadline"] == 60
        assert metrics["hgprompt_refused_requests_total:deadline-exceeded"] == 1
        assert metrics["hgprompt_batch_size_sum"] < 40
        await predictions(client, PATH, image())
