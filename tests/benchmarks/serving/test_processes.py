import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.serving.errors import ServerStartError
from benchmarks.serving.processes import MARK, MarkedProcesses
from benchmarks.serving.server import running_server

# A child in a session of its own, as a daemon of a server would be.
PROGRAM = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
end = time.process_time() + 0.3
while time.process_time() < end: pass
print("ready", flush=True)
time.sleep(600)
"""


def test_a_server_is_counted_and_ended_with_its_daemons(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM]
    find = {"ready\n": "http://x"}.get
    with running_server(command, {}, tmp_path / "log", find) as server:
        processes = server.processes
        assert len(processes.pids()) == 2
        assert processes.cpu_s() >= 0.3
        assert 1_000_000 < processes.memory_bytes() < 1_000_000_000
    assert processes.pids() == []


def test_a_paused_server_takes_no_processor(tmp_path: Path) -> None:
    spinning = "print('ready', flush=True)\nwhile True: pass"
    command = [sys.executable, "-c", spinning]
    find = {"ready\n": "http://x"}.get
    with running_server(command, {}, tmp_path / "log", find) as server:
        with server.processes.paused():
            time.sleep(0.1)
            before_s = server.processes.cpu_s()
            time.sleep(0.5)
            assert server.processes.cpu_s() == before_s
        deadline_s = time.monotonic() + 10
        while server.processes.cpu_s() == before_s:
            assert time.monotonic() < deadline_s, "it did not go on"
            time.sleep(0.05)


def test_others_are_left_alone() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(600)"], env={**os.environ, MARK: "other"}
    ) as other:
        MarkedProcesses("mine").stop(grace_s=0.1)
        time.sleep(0.1)
        assert other.poll() is None
        other.kill()


def test_a_server_that_ends_or_dawdles_is_reported(tmp_path: Path) -> None:
    def never(_log: str) -> None:
        return None

    command = [sys.executable, "-c", "raise SystemExit('no such thing')"]
    with (
        pytest.raises(ServerStartError, match="no such thing"),
        running_server(command, {}, tmp_path / "log", never),
    ):
        pass
    command = [sys.executable, "-c", "import time; time.sleep(600)"]
    with (
        pytest.raises(ServerStartError, match=r"not ready after 0\.5 s"),
        running_server(command, {}, tmp_path / "log", never, limit_s=0.5),
    ):
        pass
    with (
        pytest.raises(ServerStartError, match=r"limit 0\.0 GB"),
        running_server(command, {}, tmp_path / "log", never, max_memory_bytes=1),
    ):
        pass
