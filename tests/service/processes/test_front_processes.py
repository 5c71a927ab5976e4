"""The whole host: real processes, real signals, a real load."""

import asyncio
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.faults.hammer import check_nothing_lost, hammering, wait_until_answered
from tests.service.processes.front_load import Load
from tests.service.processes.running_host import Host, is_alive
from tests.service_process import ROOT, eventually

UNAVAILABLE = (503, "urn:hgprompt:problem:engine-unavailable")
OK = (200, None)


def classify(host: Host, data: bytes, name: str = "zoo") -> httpx.Response:
    return host.http.post(f"{host.url}/v1/ensembles/{name}/classify", content=data)


def metric(host: Host, name: str) -> dict[str, float]:
    """Sum of a metric's samples by process."""
    found: dict[str, float] = {}
    for labels, value in re.findall(
        rf"^{name}{{(.*?)}} (\S+)$", host.http.get(f"{host.url}/metrics").text, re.MULTILINE
    ):
        process = re.search(r'process="(.*?)"', labels)
        assert process is not None
        found[process[1]] = found.get(process[1], 0.0) + float(value)
    return found


def rss_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def num_descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def test_libraries_of_a_front_start_no_thread_for_each_processor(
    serve: Callable[..., Host],
) -> None:
    host = serve()
    host.wait_until_ready()
    for pid in host.pids("front"):
        variables = Path(f"/proc/{pid}/environ").read_text().split("\0")
        assert {"OPENBLAS_NUM_THREADS=1", "TOKIO_WORKER_THREADS=2"} <= set(variables)
    (engine,) = host.pids("engine")
    assert "OPENBLAS_NUM_THREADS=1" not in Path(f"/proc/{engine}/environ").read_text()


def test_fronts_answer_as_one_process_does_and_leak_nothing(
    serve: Callable[..., Host],
    open_client: Any,
    publish: Callable[..., Any],
    image: Callable[..., bytes],
) -> None:
    publish("zoo", seed=1)
    publish("other", seed=2, num_tokens=0, classes=("x", "y"))
    publish("foreign", seed=3, backbone_digest=f"sha256:{'1' * 64}")
    host = serve()
    host.wait_until_ready()
    data = image(size=(90, 70))

    async def alone() -> dict[str, Any]:
        async with open_client() as client:
            return {
                name: (await client.post(f"/v1/ensembles/{name}/classify", content=body))
                for name, body in asked.items()
            }

    asked = {"zoo": data, "other": data, "foreign": data, "nobody": data}
    expected = asyncio.run(alone())
    for _ in range(4):  # either front
        for name, body in asked.items():
            found = classify(host, body, name)
            assert found.status_code == expected[name].status_code
            left, right = found.json(), expected[name].json()
            left.pop("timing_ms", None)
            right.pop("timing_ms", None)
            assert left == right
    bad = classify(host, b"no image")
    assert bad.status_code == 415

    fronts, (engine,) = host.pids("front"), host.pids("engine")
    for pid in fronts:
        assert "libtorch" not in Path(f"/proc/{pid}/maps").read_text()
    (folder,) = host.runtime_dir.glob("hgprompt-*/")
    assert folder.stat().st_mode & 0o777 == 0o700

    before: dict[int, tuple[int, int]] = {}
    for round_ in range(3):
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: classify(host, data).status_code, range(700)))
            assert answers == [200] * 700
        _hang_up(host.url, data, 50)
        eventually(lambda: sum(metric(host, "hgprompt_queue_depth").values()) == 0)
        time.sleep(1)
        after = {pid: (num_descriptors(pid), rss_bytes(pid)) for pid in (*fronts, engine)}
        if round_ == 0:
            before = after  # warm
    for pid, (descriptors, resident_bytes) in after.items():
        assert descriptors <= before[pid][0] + 2, (before, after)
        assert resident_bytes <= before[pid][1] + 16_000_000, (before, after)

    counted = metric(host, "hgprompt_requests_total")
    assert counted.keys() == {"front-0", "front-1"}
    assert all(counted.values())
    assert metric(host, "hgprompt_process_up") == dict.fromkeys(
        ("engine", "front-0", "front-1"), 1.0
    )
    assert metric(host, "hgprompt_resident_artifacts") == {"engine": 2.0}
    assert "_created" not in host.http.get(f"{host.url}/metrics").text
    assert metric(host, "process_resident_memory_bytes").keys() == {"engine", "front-0", "front-1"}
    computed = metric(host, "hgprompt_batch_size_sum")
    assert computed["engine"] >= 2100
    assert computed["front-0"] == computed["front-1"] == 0


def test_statistics_of_models_are_those_of_all_fronts(
    serve: Callable[..., Host], publish: Callable[..., Any], image: Callable[..., bytes]
) -> None:
    publish("zoo", seed=1)
    host = serve()
    host.wait_until_ready()
    data, model = image(), f"{host.url}/v2/models/zoo"

    def counted(url: str = model) -> tuple[int, int, int, int]:
        (found,) = host.http.get(f"{url}/stats").json()["model_stats"]
        passes = sum(each["compute_infer"]["count"] for each in found["batch_stats"])
        stats = found["inference_stats"]
        return found["inference_count"], passes, stats["success"]["count"], stats["fail"]["count"]

    def infer(body: bytes) -> int:
        headers = {"Inference-Header-Content-Length": "0"}
        return host.http.post(f"{model}/infer", content=body, headers=headers).status_code

    assert counted() == (0, 0, 0, 0)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(infer, [data] * 40)) == [200] * 40
        assert list(pool.map(infer, [b"junk"] * 10)) == [400] * 10
    for _ in range(6):  # either front
        assert counted() == (40, 40, 40, 10)
        assert counted(f"{host.url}/v2/models") == (40, 40, 40, 10)
    answered = metric(host, "hgprompt_requests_total")
    assert answered["front-0"] > 0
    assert answered["front-1"] > 0

    # A front that was started again begins at zero; the other's counts stay.
    killed = host.pids("front")[0]
    os.kill(killed, signal.SIGKILL)
    eventually(lambda: len(host.pids("front")) == 2 and killed not in host.pids("front"))
    eventually(lambda: metric(host, "hgprompt_process_up")["front-0"] == 1)
    rows, passes, successes, failures = counted()
    assert rows == passes == successes <= 40
    assert failures <= 10


def test_killed_and_hanging_processes_are_replaced_under_load(
    serve: Callable[..., Host], publish: Callable[..., Any], image: Callable[..., bytes]
) -> None:
    publish("zoo", seed=1)
    host = serve()
    host.wait_until_ready()
    data = image(size=(60, 60))
    expected = classify(host, data).json()["predictions"]
    with Load(host.url, data, expected) as load:
        eventually(lambda: load.seen[OK] > 50)

        # A front is killed: the other one goes on, the engine does not notice.
        (engine,) = host.pids("engine")
        killed = host.pids("front")[0]
        load.take()
        os.kill(killed, signal.SIGKILL)
        eventually(lambda: len(host.pids("front")) == 2 and killed not in host.pids("front"))
        eventually(lambda: metric(host, "hgprompt_process_up")["front-0"] == 1)
        eventually(lambda: load.seen[OK] > 50)
        assert load.take().keys() == {OK}
        assert len(load.broken) <= 4  # only what was in its hands
        assert host.pids("engine") == [engine]
        load.broken.clear()

        # The engine is killed: at once 503s and nothing else, then it is back.
        os.kill(engine, signal.SIGKILL)
        eventually(lambda: load.seen[UNAVAILABLE] > 20, 5)
        assert host.http.get(f"{host.url}/livez").status_code == 200
        assert host.http.get(f"{host.url}/readyz").status_code == 503
        unready = host.http.get(f"{host.url}/v2/models/zoo/ready")
        assert (unready.status_code, unready.json()["ready"]) == (503, False)
        refused = classify(host, data)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
        eventually(host.is_ready, 120)
        assert load.take().keys() <= {OK, UNAVAILABLE}
        eventually(lambda: load.seen[OK] > 50)

        # The engine hangs: the same, once it has been silent for long enough.
        (engine,) = host.pids("engine")
        load.take()
        os.kill(engine, signal.SIGSTOP)
        stopped_s = time.monotonic()
        eventually(lambda: load.seen[UNAVAILABLE] > 20, 15)
        assert time.monotonic() - stopped_s < 10
        eventually(host.is_ready, 120)
        assert not is_alive(engine)
        assert load.take().keys() <= {OK, UNAVAILABLE}
        eventually(lambda: load.seen[OK] > 50)
        assert load.broken == []
    host.process.send_signal(signal.SIGTERM)
    assert host.process.wait(60) == 0


def test_fronts_that_begin_while_the_engine_is_away_answer_503(
    serve: Callable[..., Host], publish: Callable[..., Any], image: Callable[..., bytes]
) -> None:
    publish("zoo", seed=1)
    host = serve()
    host.wait_until_ready()
    data = image(size=(60, 60))
    expected = classify(host, data).json()["predictions"]
    backbone = host.http.get(f"{host.url}/v1/backbone").json()
    (engine,) = host.pids("engine")
    os.kill(engine, signal.SIGKILL)
    eventually(lambda: host.pids("engine") not in ([], [engine]))
    (engine,) = host.pids("engine")
    os.kill(engine, signal.SIGSTOP)  # it has no limit while it starts, so it stays away
    try:
        before = host.pids("front")
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        eventually(lambda: len(set(host.pids("front")) - set(before)) == 2)
        # Connections wait in the listening socket until one of the new fronts takes them.
        assert host.http.get(f"{host.url}/livez").status_code == 200
        unready = host.http.get(f"{host.url}/readyz")
        assert unready.status_code == 503
        assert "engine" in unready.text
        refused = classify(host, data)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
        assert host.http.get(f"{host.url}/v1/backbone").json() == backbone
    finally:
        os.kill(engine, signal.SIGCONT)
    eventually(host.is_ready, 120)
    assert host.pids("engine") == [engine]
    assert classify(host, data).json()["predictions"] == expected
    assert "Traceback" not in host.log


def test_what_a_killed_front_spooled_is_removed_and_another_front_keeps_its_own(
    serve: Callable[..., Host], tmp_path: Path
) -> None:
    spool = tmp_path / "spool"
    spool.mkdir()
    host = serve(upload_dir=spool, body_idle_timeout_s=300)
    host.wait_until_ready()
    uploads: list[socket.socket] = []
    spooled: dict[int, Path] = {}  # by the front that has it open
    try:
        while len(spooled) < 2:  # one in either front
            assert len(uploads) < 50
            uploads.append(_begin_upload(host.url))
            eventually(lambda: len(list(spool.glob("*/body"))) == len(uploads))
            spooled = {pid: path for pid in host.pids("front") for path in _open_in(pid, spool)}
        left = set(spool.iterdir())
        (killed, _), (other, kept) = spooled.items()
        lost = {path.parent for path in _open_in(killed, spool)}
        os.kill(killed, signal.SIGKILL)
        eventually(lambda: len(host.pids("front")) == 2 and killed not in host.pids("front"))
        eventually(lambda: set(spool.iterdir()) == left - lost)
        assert kept in _open_in(other, spool)
        assert kept.exists()
    finally:
        for each in uploads:
            each.close()
    eventually(lambda: not list(spool.iterdir()))


def test_sigterm_under_load_loses_no_request_and_leaves_no_process(
    serve: Callable[..., Host], publish: Callable[..., Any], image: Callable[..., bytes]
) -> None:
    publish("zoo", seed=1)
    host = serve(drain_s=3.0)
    host.wait_until_ready()
    data = image(size=(300, 300))
    expected = classify(host, data).json()["predictions"]

    def until_told_to_go() -> int:
        answered = 0
        with httpx.Client(timeout=60) as client:
            while True:
                response = client.post(f"{host.url}/v1/ensembles/zoo/classify", content=data)
                assert response.status_code == 200
                assert response.json()["predictions"] == expected
                answered += 1
                if response.headers.get("connection") == "close":
                    return answered

    children = [*host.pids("front"), *host.pids("engine")]
    assert len(children) == 3
    with ThreadPoolExecutor(8) as pool:
        clients = [pool.submit(until_told_to_go) for _ in range(8)]
        time.sleep(1)
        host.process.send_signal(signal.SIGTERM)
        assert all(client.result(60) > 0 for client in clients)
    assert host.process.wait(60) == 0
    assert not any(map(is_alive, children))
    assert list(host.runtime_dir.glob("hgprompt-*/")) == []
    assert '"level": "ERROR"' not in host.log
    ended = [line for line in host.log.splitlines() if "exited with 0" in line]
    assert ["engine" in line for line in ended] == [False, False, True], host.log[-4000:]


def test_clients_that_do_not_listen_lose_no_request_to_the_last_front(
    serve: Callable[..., Host], publish: Callable[..., Any], image: Callable[..., bytes]
) -> None:
    publish("zoo", seed=1)
    host = serve(drain_s=1.0)
    host.wait_until_ready()
    with hammering(host.url, image(), 16) as results:
        wait_until_answered(results)
        host.process.send_signal(signal.SIGTERM)
        assert host.process.wait(60) == 0
    check_nothing_lost(results, 16)


def test_a_front_that_leaves_alone_keeps_nobody_from_the_others(
    serve: Callable[..., Host], publish: Callable[..., Any], image: Callable[..., bytes]
) -> None:
    publish("zoo", seed=1)
    host = serve(drain_s=0.2)
    host.wait_until_ready()
    left = host.pids("front")[0]
    with hammering(host.url, image(), 4) as results:
        wait_until_answered(results)
        os.kill(left, signal.SIGTERM)
        eventually(lambda: not is_alive(left))
        wait_until_answered(results, results["200"] + 100)
        assert not results["refused"]
        eventually(lambda: len(host.pids("front")) == 2)
        host.process.send_signal(signal.SIGTERM)
        assert host.process.wait(60) == 0
    check_nothing_lost(results, 4)


def test_a_killed_supervisor_takes_all_of_them_along(serve: Callable[..., Host]) -> None:
    host = serve()
    host.wait_until_ready()
    children = [*host.pids("front"), *host.pids("engine")]
    os.kill(children[-1], signal.SIGSTOP)
    host.process.kill()
    eventually(lambda: not any(map(is_alive, children)), 20)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"backbone": "no-such-model"}, "no-such-model"),
        ({"runtime_dir": "/no/such/folder"}, "/no/such/folder"),
        ({"host": "192.0.2.1", "allow_insecure_bind": True}, "192.0.2.1"),
    ],
)
def test_a_host_that_is_not_configured_right_says_so_and_ends(
    serve: Callable[..., Host], settings: dict[str, object], words: str
) -> None:
    host = serve(**settings)
    assert host.process.wait(120) == 1
    assert words in host.log


def test_fronts_answer_to_no_foreign_name(serve: Callable[..., Host]) -> None:
    host = serve(allowed_hosts="prompts.example.org")
    host.wait_until_ready()
    port = int(host.url.rpartition(":")[2])
    for path in ["/v1/prompts", "/v2/health/live"] * 4:  # either front
        for name, expected in (("rebound.example", 421), ("prompts.example.org", 200)):
            headers = {"Host": f"{name}:{port}"}
            assert host.http.get(f"{host.url}{path}", headers=headers).status_code == expected
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"GET /livez HTTP/1.0\r\n\r\n")
        assert connection.makefile("rb").readline().split()[1] == b"200"


def test_a_path_that_is_too_long_for_a_socket_is_refused(
    serve: Callable[..., Host], tmp_path: Path
) -> None:
    long = tmp_path / ("x" * 120)
    long.mkdir()
    host = serve(runtime_dir=long)
    assert host.process.wait(60) == 1
    assert "the limit is 107" in host.log


def test_a_port_in_use_is_noticed_before_anything_is_loaded(serve: Callable[..., Host]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        host = serve(port=taken.getsockname()[1])
        assert host.process.wait(60) == 1
    assert "cannot listen on 127.0.0.1" in host.log
    assert "engine" not in host.log


def test_a_front_imports_no_torch() -> None:
    program = "import sys, service.processes.front; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0


def _hang_up(url: str, data: bytes, count: int) -> None:
    """Ask, and be gone before the answer."""
    host, port = url.removeprefix("http://").split(":")
    head = (
        "POST /v1/ensembles/zoo/classify HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Length: {len(data)}\r\n\r\n"
    )
    for _ in range(count):
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(head.encode() + data)


def _begin_upload(url: str) -> socket.socket:
    """Send the beginning of a prompt."""
    host, port = url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)))
    head = "PUT /v1/prompts/slow HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n"
    connection.sendall(head.encode() + bytes(1000))
    return connection


def _open_in(pid: int, folder: Path) -> list[Path]:
    """Files in a folder that a process has open."""
    found: list[Path] = []
    for each in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(each.readlink())
    return [path for path in found if path.is_relative_to(folder) and path.is_file()]
