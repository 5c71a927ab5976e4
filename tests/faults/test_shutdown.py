"""SIGTERM under load: every request is answered or was never accepted, and nothing is left."""

import io
import os
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Generator
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from jobs.records import FitId
from tests.faults.conftest import Serve
from tests.faults.hammer import PATH, check_nothing_lost, hammering, wait_until_answered
from tests.service_process import ROOT
from tests.tiny_backbone import TINY_BACKBONE


def test_clients_that_do_not_listen_lose_no_request_either(
    serve: Serve, publish: Callable[..., tuple[FitId, str]], image: Callable[..., bytes]
) -> None:
    publish("zoo", seed=1)
    server = serve(drain_s=1.0, max_queue=4)
    url = server.wait_until_ready()
    with hammering(url, image(), 16) as results:
        wait_until_answered(results)
        server.terminate()
        told_s = time.monotonic()
        assert server.process.wait(30) == 0
    assert time.monotonic() - told_s < 1.0 + 20.0 + 2.0
    check_nothing_lost(results, 16)


def test_a_request_that_never_ends_does_not_outlast_the_grace_period(
    serve: Serve, publish: Callable[..., tuple[FitId, str]]
) -> None:
    publish("zoo", seed=1)
    server = serve(drain_s=0.2, shutdown_grace_s=1.0)
    host, port = server.wait_until_ready().removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(
            f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n1".encode()
        )
        time.sleep(0.3)
        server.terminate()
        told_s = time.monotonic()
        assert server.process.wait(30) == 0
        assert time.monotonic() - told_s < 15  # not the 30 s that a body may pause for
        with connection.makefile("rb") as answers:
            head = answers.read()
    assert head.startswith(b"HTTP/1.1 503 "), head
    assert b"\r\nretry-after: " in head


class Up:
    """`hgprompt up` on a folder."""

    def __init__(self, folder: Path) -> None:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("HGPROMPT_")}
        environ = {
            "HGPROMPT_BACKBONE": TINY_BACKBONE,
            "HGPROMPT_DEVICE": "cpu",
            "HGPROMPT_DATA_DIR": str(folder),
            "HGPROMPT_HEARTBEAT_S": "0.2",
            "HGPROMPT_SWEEP_INTERVAL_S": "0.5",
            "HGPROMPT_LEASE_S": "4",
            "OMP_NUM_THREADS": "1",
            "PYTHONUNBUFFERED": "1",
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "client", "up", "--port", "0"],
            env={**kept, **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.output = ""

    def wait_until_ready(self) -> str:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output += line
            if "ready at " in line:
                return line.split("ready at ")[1].split()[0]
        pytest.fail(self.output)

    def descendants(self) -> set[int]:
        """Every process that it has started, and theirs."""
        parents: dict[int, int] = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it has ended
            parents[int(stat.parent.name)] = int(fields[1])
        found = {self.process.pid}
        while more := {pid for pid, parent in parents.items() if parent in found} - found:
            found |= more
        return found - {self.process.pid}


@pytest.fixture
def start_up(tmp_path: Path) -> Generator[Callable[[], Up]]:
    started: list[Up] = []

    def start() -> Up:
        started.append(Up(tmp_path / "data"))
        return started[-1]

    yield start
    for up in started:
        if up.process.poll() is None:
            up.process.terminate()
        up.process.communicate(timeout=60)


def colours(num_images: int) -> bytes:
    """A task of two classes with so many noisy images each."""
    rng = np.random.default_rng(0)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for label, base in (("dark", 60), ("light", 190)):
            for i in range(num_images):
                encoded = io.BytesIO()
                pixels = (base + rng.normal(0, 25, (32, 32, 3))).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(encoded, "PNG")
                archive.writestr(f"{label}/{i}.png", encoded.getvalue())
    return buffer.getvalue()


def fit(client: httpx.Client, name: str, task: str, **options: object) -> None:
    wanted = {"name": name, "task": task, "sources": "all", "options": options}
    answer = client.post("/v1/ensembles", json=wanted)
    assert answer.status_code == 202, answer.text


def wait_for(client: httpx.Client, name: str, status: str) -> None:
    deadline_s = time.monotonic() + 120
    while (record := client.get(f"/v1/ensembles/{name}").json())["status"] != status:
        assert record["status"] in ("queued", "running"), record
        assert time.monotonic() < deadline_s, record
        time.sleep(0.1)


def gone(pids: set[int]) -> bool:
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_up_drains_requests_and_hands_its_fit_over(
    start_up: Callable[[], Up],
    make_prompt: Callable[..., bytes],
    image: Callable[..., bytes],
) -> None:
    up = start_up()
    url = up.wait_until_ready()
    with httpx.Client(base_url=url, timeout=60) as client:
        for seed, name in enumerate(("one", "two")):
            made = client.put(f"/v1/prompts/{name}", content=make_prompt(seed))
            assert made.status_code == 201, made.text
        for task, num_images in (("few", 60), ("many", 2000)):
            made = client.put(f"/v1/tasks/{task}", content=colours(num_images))
            assert made.status_code == 201, made.text
        fit(client, "zoo", "few")
        wait_for(client, "zoo", "succeeded")
        fit(client, "long", "many", tuning_epochs=200)  # takes far longer than the rest of the test
        wait_for(client, "long", "running")
    children = up.descendants()
    assert len(children) >= 4  # guardian, Redis, service, worker
    with hammering(url, image(), 4) as results:
        wait_until_answered(results)
        up.process.send_signal(signal.SIGTERM)
        assert up.process.wait(60) == 0
    check_nothing_lost(results, 4)
    assert gone(children)

    again = start_up()
    with httpx.Client(base_url=again.wait_until_ready(), timeout=60) as client:
        assert client.post(PATH, content=image()).status_code == 200
        wait_for(client, "long", "running")
        record = client.get("/v1/ensembles/long").json()
        assert record["attempt"] == 2
        assert client.post("/v1/ensembles/long/cancel").status_code == 202
