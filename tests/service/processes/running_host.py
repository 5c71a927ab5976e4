"""A service with front processes, and looks at its processes."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[3]
TINY_BACKBONE = "random:vit_tiny_patch16_224?seed=0&img_size=32&depth=2"


class Host:
    """`python -m service` with front processes, on a free port of the loopback interface."""

    def __init__(self, folder: Path, store_url: str, redis_url: str, **settings: object) -> None:
        self.log_path = folder / "service.log"
        chosen = {
            "host": "127.0.0.1",
            "port": 0,
            "front_processes": 2,
            "process_timeout_s": 3.0,
            "store_url": store_url,
            "redis_url": redis_url,
            "backbone": TINY_BACKBONE,
            "device": "cpu",
            "serving_precision": "fp32",  # so that answers can be compared exactly
            "cache_dir": folder,
            "upload_dir": folder,
            "runtime_dir": folder,
            **settings,
        }
        environment = {f"HGPROMPT_{key.upper()}": str(value) for key, value in chosen.items()}
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "service"],
                cwd=ROOT,
                env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
                stderr=log,
            )
        self.url = ""
        # A new connection each time, so that requests come to either front.
        limits = httpx.Limits(max_keepalive_connections=0)
        self.http = httpx.Client(timeout=60, limits=limits)

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def wait_until_ready(self) -> None:
        eventually(lambda: "serving on " in self.log or self.process.poll() is not None, 200)
        assert self.process.poll() is None, self.log
        self.url = self.log.split("serving on ")[1].split()[0]
        eventually(self.is_ready)

    def is_ready(self) -> bool:
        with contextlib.suppress(httpx.TransportError):
            return self.http.get(f"{self.url}/readyz").status_code == 200
        return False

    def pids(self, program: str) -> list[int]:
        """Children of the supervisor that run `service.processes.<program>`."""
        found: list[int] = []
        for child in children_of(self.process.pid):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                if f"service.processes.{program}" in Path(f"/proc/{child}/cmdline").read_text():
                    found.append(child)
        return sorted(found)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(30)
        self.http.close()


def children_of(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(each) for each in text.split()]


def is_alive(pid: int) -> bool:
    """Whether a process exists and is not only waiting to be reaped."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def eventually(holds: Callable[[], bool], timeout_s: float = 60.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
