"""`hgprompt up` as a process: start, signals, locks, ports, orphans."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from client.up import SERVICE_ENDS_S, WORKER_ENDS_S, grace_s
from jobs.settings import DeploymentSettings
from service.settings import ServiceSettings

Command = tuple[str, ...]
MakeScript = Callable[[str, str], Command]
Eventually = Callable[[Callable[[], bool], str], None]
IsRunning = Callable[[int], bool]

SERVICE = """
import http.server, json, os, signal, sys, threading
class Ready(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        wanted = {k: v for k, v in os.environ.items() if k.startswith("HGPROMPT_")}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"pid": os.getpid(), "environ": wanted}).encode())
    def log_message(self, *_):
        pass
address = (os.environ["HGPROMPT_HOST"], int(os.environ["HGPROMPT_PORT"]))
server = http.server.ThreadingHTTPServer(address, Ready)
def drain(*_):
    print(json.dumps({"level": "WARNING", "message": "drained"}), flush=True)
    os._exit(0)
signal.signal(signal.SIGTERM, drain)
server.serve_forever()
"""
WORKER = """
import json, os, signal
print(json.dumps({"level": "WARNING", "message": f"worker is {os.getpid()}"}), flush=True)
signal.pause()
"""
DRIVER = """
import json, os, sys
from pathlib import Path
from client.console import make_console
from client.errors import ClientError
from client.foreground import run_until_stopped
from client.supervisor import RestartPolicy
from client.up import LocalOptions
folder, port, service, worker = json.loads(sys.argv[1])
options = LocalOptions(
    Path(folder), "127.0.0.1", port, os.environ, tuple(service), tuple(worker),
    RestartPolicy(max_quick_deaths=3, first_delay_s=0.05),
)
try:
    run_until_stopped(options, make_console(), verbose=False)
except ClientError as exc:
    sys.exit(str(exc))
"""


@dataclass
class Up:
    """A running `up`, what it has printed so far, and the lines no one has waited for yet.

    Lines of several processes arrive in any order, so a wait looks at the skipped ones first.
    """

    process: subprocess.Popen[str]
    output: list[str] = field(default_factory=list[str])
    skipped: list[str] = field(default_factory=list[str])

    def read_until(self, pattern: str) -> re.Match[str]:
        for line in self.skipped:
            if match := re.search(pattern, line):
                self.skipped.remove(line)
                return match
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output.append(line)
            if match := re.search(pattern, line):
                return match
            self.skipped.append(line)
        pytest.fail(f"no {pattern!r} in {self.output}, exit status {self.process.wait()}")

    def get(self, url: str) -> dict[str, object]:
        with urllib.request.urlopen(url, timeout=5.0) as reply:  # noqa: S310
            return json.load(reply)

    def finish(self) -> str:
        output, _ = self.process.communicate(timeout=30.0)
        self.output.append(output)
        return "".join(self.output)


StartUp = Callable[..., Up]


@pytest.fixture
def sighup() -> Iterator[Callable[[signal.Handlers], None]]:
    """Sets what children do at SIGHUP; these tests may themselves run under `nohup`."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)

    def become(handler: signal.Handlers) -> None:
        signal.signal(signal.SIGHUP, handler)

    yield become
    signal.signal(signal.SIGHUP, before)


@pytest.fixture
def start_up(tmp_path: Path, script: MakeScript) -> Iterator[StartUp]:
    service, worker = script("service", SERVICE), script("worker", WORKER)
    started: list[Up] = []

    def start(
        data_dir: Path = tmp_path / "data",
        port: int = 0,
        service: Command = service,
        worker: Command = worker,
        **environ: str,
    ) -> Up:
        process = subprocess.Popen(
            [sys.executable, "-c", DRIVER, json.dumps([str(data_dir), port, service, worker])],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**clean_environ(), **environ},
        )
        started.append(Up(process))
        return started[-1]

    yield start
    for up in started:
        if up.process.poll() is None:
            up.process.terminate()
        up.process.communicate()


def clean_environ() -> dict[str, str]:
    root = str(Path(__file__).parents[2])
    kept = {k: v for k, v in os.environ.items() if not k.startswith("HGPROMPT_")}
    return {**kept, "PYTHONPATH": root}


def test_it_starts_everything_and_says_where(start_up: StartUp, tmp_path: Path) -> None:
    up = start_up()
    url = up.read_until(r"HGPrompt is ready at (http://127\.0\.0\.1:\d+)")[1]
    up.read_until("worker is")
    up.read_until(re.escape(str(tmp_path / "data/logs")))
    environ = up.get(url)["environ"]
    assert environ == {
        "HGPROMPT_REDIS_URL": f"unix://{tmp_path}/data/redis/redis.sock",
        "HGPROMPT_STORE_URL": f"file://{tmp_path}/data/store",
        "HGPROMPT_ROLE": "all",
        "HGPROMPT_HOST": "127.0.0.1",
        "HGPROMPT_PORT": url.rpartition(":")[2],
    }
    output = "".join(up.output)
    assert "loading the backbone" in output
    assert sorted(path.name for path in (tmp_path / "data/logs").iterdir()) == [
        "redis.log",
        "service.log",
        "worker.log",
    ]


def test_stores_and_redis_of_the_environment_are_used(start_up: StartUp, tmp_path: Path) -> None:
    given = {"HGPROMPT_REDIS_URL": "redis://elsewhere:1/2", "HGPROMPT_STORE_URL": "file:///other"}
    up = start_up(**given)
    url = up.read_until(r"ready at (\S+)")[1]
    environ = up.get(url)["environ"]
    assert isinstance(environ, dict)
    assert given.items() <= environ.items()
    assert not (tmp_path / "data/redis").exists()
    assert not (tmp_path / "data/store").exists()


@pytest.mark.usefixtures("sighup")
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_drains_and_ends_with_success(
    start_up: StartUp, is_running: IsRunning, signum: signal.Signals
) -> None:
    up = start_up()
    up.read_until("ready at")
    worker = int(up.read_until(r"worker is (\d+)")[1])
    up.process.send_signal(signum)
    output = up.finish()
    assert up.process.returncode == 0
    assert re.search("drained.*stopped$", output, re.DOTALL)
    assert not is_running(worker)


def test_under_nohup_it_outlives_the_terminal(
    start_up: StartUp, sighup: Callable[[signal.Handlers], None]
) -> None:
    sighup(signal.SIG_IGN)
    up = start_up()
    url = up.read_until(r"ready at (\S+)")[1]
    up.process.send_signal(signal.SIGHUP)
    time.sleep(1.5)  # three looks at the signals that have come
    assert up.get(url)["pid"]
    up.process.terminate()
    assert "stopped" in up.finish()


def test_a_signal_while_starting_ends_it(start_up: StartUp, script: MakeScript) -> None:
    up = start_up(service=script("slow", "import time; time.sleep(600)"))
    up.read_until("loading the backbone")
    up.process.terminate()
    assert up.finish().endswith("stopped\n")
    assert up.process.returncode == 0


def test_nothing_is_left_after_sigkill_and_the_folder_is_free_again(
    start_up: StartUp, eventually: Eventually, is_running: IsRunning
) -> None:
    up = start_up()
    url = up.read_until(r"ready at (\S+)")[1]
    worker = int(up.read_until(r"worker is (\d+)")[1])
    service = up.get(url)["pid"]
    assert isinstance(service, int)
    up.process.kill()
    again = start_up()
    again.read_until("ready at")
    eventually(lambda: not is_running(worker) and not is_running(service), "their end")


def test_a_second_one_on_the_same_folder_is_refused(start_up: StartUp) -> None:
    up = start_up()
    url = up.read_until(r"ready at (\S+)")[1]
    second = start_up()
    assert f"in use by another hgprompt (process {up.process.pid} at {url})" in second.finish()
    assert second.process.returncode == 1


def test_a_port_in_use_is_refused(start_up: StartUp, tmp_path: Path) -> None:
    port = int(start_up().read_until(r"ready at http://127.0.0.1:(\d+)")[1])
    second = start_up(tmp_path / "other", port)
    assert (
        second.finish() == f"port {port} on 127.0.0.1 is in use; choose another one with --port\n"
    )
    assert second.process.returncode == 1


def test_a_service_that_cannot_start_is_quoted(start_up: StartUp, script: MakeScript) -> None:
    up = start_up(service=script("broken", "raise SystemExit('no such backbone: x')"))
    output = up.finish()
    assert "service ended with exit status 1 (no such backbone: x); its log: " in output
    assert up.process.returncode == 1


def test_logs_go_on_when_nobody_reads_what_it_prints(
    start_up: StartUp, script: MakeScript, eventually: Eventually, tmp_path: Path
) -> None:
    """As behind `| head` or a `tee` that was killed."""
    talkative = SERVICE.replace(
        "pass", 'print(json.dumps({"level": "ERROR", "message": self.path}), flush=True)'
    )
    up = start_up(service=script("talkative", talkative))
    url = up.read_until(r"ready at (\S+)")[1]
    up.read_until("Ctrl-C")
    assert up.process.stdout is not None
    up.process.stdout.close()
    up.process.stdout = None
    log = tmp_path / "data" / "logs" / "service.log"
    for path in ("/first", "/second", "/third"):
        up.get(url + path)
        eventually(lambda path=path: path in log.read_text(), f"{path} in the log")
    first = up.get(url)["pid"]
    assert isinstance(first, int)
    os.kill(first, signal.SIGKILL)
    eventually(lambda: answers_anew(up, url, first), "a new service process")
    up.process.terminate()
    assert up.process.wait(30.0) == 0


def test_a_service_that_dies_is_started_again(start_up: StartUp, eventually: Eventually) -> None:
    up = start_up()
    url = up.read_until(r"ready at (\S+)")[1]
    first = up.get(url)["pid"]
    assert isinstance(first, int)
    os.kill(first, signal.SIGKILL)
    up.read_until("service was killed by SIGKILL.*restarting it")
    eventually(lambda: answers_anew(up, url, first), "a new service process")


def answers_anew(up: Up, url: str, first: int) -> bool:
    try:
        return up.get(url)["pid"] != first
    except OSError:
        return False


def test_a_worker_that_keeps_dying_ends_it(start_up: StartUp, script: MakeScript) -> None:
    up = start_up(worker=script("poor", "raise SystemExit('out of memory')"))
    output = up.finish()
    assert "(out of memory); its log: " in output
    assert "gave up after 3 quick ends" in output
    assert up.process.returncode == 1


def test_a_data_folder_with_a_long_path_works(start_up: StartUp, tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 30)
    up = start_up(folder)
    environ = up.get(up.read_until(r"ready at (\S+)")[1])["environ"]
    assert isinstance(environ, dict)
    socket_path = Path(str(environ["HGPROMPT_REDIS_URL"]).removeprefix("unix://"))
    assert len(bytes(socket_path)) <= 100
    up.process.terminate()
    up.finish()
    socket_path.parent.rmdir()


@pytest.mark.parametrize(
    ("environ", "service_s", "worker_s"),
    [
        ({}, 51.0, 30.0),
        ({"HGPROMPT_DRAIN_S": "20", "HGPROMPT_SHUTDOWN_GRACE_S": "60"}, 150.0, 30.0),
        ({"HGPROMPT_FIT_STOP_GRACE_S": "60"}, 51.0, 70.0),
        ({"HGPROMPT_DRAIN_S": "soon"}, 51.0, 30.0),
    ],
)
def test_children_have_the_time_that_their_settings_give_them(
    environ: dict[str, str], service_s: float, worker_s: float
) -> None:
    assert grace_s(environ, SERVICE_ENDS_S) == service_s
    assert grace_s(environ, WORKER_ENDS_S) == worker_s


def test_the_defaults_of_these_settings_are_theirs() -> None:
    defaults = {
        f"HGPROMPT_{name.upper()}": field.default
        for settings in (ServiceSettings, DeploymentSettings)
        for name, field in settings.model_fields.items()
    }
    for name, default_s in (*SERVICE_ENDS_S, *WORKER_ENDS_S):
        assert defaults[name] == default_s
