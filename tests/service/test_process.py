"""A real process: signals, sockets and clients that hang up."""

import json
import os
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from jobs.ensembles import EnsembleStore
from jobs.records import FitId, FitSpec
from jobs.store_keys import outcome_key, request_key
from tests.faults.server import Server

MOST_LOOKS = min(32, (os.cpu_count() or 1) + 4)
"""Threads of `asyncio.to_thread`."""


def test_it_survives_dropped_connections_and_leaves_without_losing_a_request(
    serve: Callable[..., Server],
    publish: Callable[..., tuple[FitId, str]],
    image: Callable[..., bytes],
    ensembles: EnsembleStore,
    make_spec: Callable[..., FitSpec],
) -> None:
    publish("zoo", seed=1)
    ensembles.create(make_spec("unfinished"))
    server = serve(drain_s=3.0)
    url = server.wait_until_ready()
    data = image(size=(600, 600))
    expected = httpx.post(f"{url}/v1/ensembles/zoo/classify", content=data).json()["predictions"]

    _drop_connections(url, data)
    early = httpx.put(f"{url}/v1/prompts/p", content=bytes(17_000_000))
    assert (early.status_code, early.json()["limit"]) == (413, 16_000_000)

    # Under load, SIGTERM loses nothing: every client is told to go elsewhere by a good answer.
    def load() -> int:
        answered = 0
        with httpx.Client(timeout=60) as client:
            while True:
                response = client.post(f"{url}/v1/ensembles/zoo/classify", content=data)
                assert response.status_code == 200
                assert response.json()["predictions"] == expected
                answered += 1
                if response.headers.get("connection") == "close":
                    return answered

    with ThreadPoolExecutor(5) as pool:
        loads = [pool.submit(load) for _ in range(4)]
        following = pool.submit(httpx.get, f"{url}/v1/ensembles/unfinished/events", timeout=60)
        time.sleep(0.5)
        assert not following.done()
        server.terminate()
        while (leaving := httpx.get(f"{url}/readyz")).status_code == 200:
            time.sleep(0.05)
        assert (leaving.status_code, leaving.headers["connection"]) == (503, "close")
        assert leaving.json()["checks"]["draining"] != "ok"
        assert all(each.result(60) > 0 for each in loads)
        assert following.result(60).status_code == 200  # it ended in good order
    assert server.process.wait(30) == 0
    records = [json.loads(line) for line in server.log.splitlines()]
    assert {"timestamp", "level", "logger", "message"} <= records[0].keys()
    assert [record for record in records if record["level"] in ("ERROR", "CRITICAL")] == []


def test_it_leaves_although_the_store_hangs(
    serve: Callable[..., Server], publish: Callable[..., tuple[FitId, str]], tmp_path: Path
) -> None:
    """As on a network volume whose server is gone: a named pipe that nobody writes to."""
    fit_id, _ = publish("zoo", seed=1)
    server = serve(drain_s=0.1, shutdown_grace_s=1.0, request_deadline_s=1.0)
    url = server.wait_until_ready()
    request = tmp_path / "store" / request_key(fit_id)
    request.unlink()
    os.mkfifo(request)
    with pytest.raises(httpx.ReadTimeout):
        httpx.get(f"{url}/v1/ensembles/zoo/versions/1", timeout=1.0)
    began_s = time.monotonic()
    server.terminate()
    assert server.process.wait(60) == 0
    assert time.monotonic() - began_s < 20
    assert "left although threads hang" in server.log


def test_it_leaves_although_every_thread_that_looks_names_up_hangs(
    serve: Callable[..., Server], publish: Callable[..., tuple[FitId, str]], tmp_path: Path
) -> None:
    fit_ids = [publish(f"zoo{number}", seed=1)[0] for number in range(MOST_LOOKS + 1)]
    server = serve(drain_s=0.1, shutdown_grace_s=1.0, request_deadline_s=1.0)
    url = server.wait_until_ready()
    for fit_id in fit_ids:
        outcome = tmp_path / "store" / outcome_key(fit_id)
        outcome.unlink()
        os.mkfifo(outcome)

    def status_of(fit_id: FitId) -> int:
        path = f"{url}/v1/ensembles/{fit_id.name}/classify"
        return httpx.post(path, content=b"an image", timeout=30).status_code

    with ThreadPoolExecutor(len(fit_ids)) as pool:
        assert set(pool.map(status_of, fit_ids)) == {504}
    began_s = time.monotonic()
    server.terminate()
    assert server.process.wait(60) == 0
    assert time.monotonic() - began_s < 20
    assert "left although threads hang" in server.log


def _drop_connections(url: str, data: bytes) -> None:
    """Hang up in every phase of a request; later requests must not notice."""
    host, port = url.removeprefix("http://").split(":")
    lines = (
        "POST /v1/ensembles/zoo/classify HTTP/1.1",
        "Host: localhost",
        f"Content-Length: {len(data)}",
        "",
        "",
    )
    head = "\r\n".join(lines).encode()
    for sent in (head[:20], head, head + data[:100], head + data):
        for _ in range(5):
            with socket.create_connection((host, int(port))) as connection:
                connection.sendall(sent)
    metrics = httpx.get(f"{url}/metrics").text
    deadline_s = time.monotonic() + 30
    while "hgprompt_queue_depth 0.0" not in metrics:
        assert time.monotonic() < deadline_s
        metrics = httpx.get(f"{url}/metrics").text
