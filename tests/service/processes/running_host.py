"""A service with front processes, and looks at its processes."""

import contextlib
import tempfile
from pathlib import Path

import httpx

from tests.service_process import ServiceProcess, eventually


class Host(ServiceProcess):
    """`python -m service` with two front processes, unless told otherwise."""

    def __init__(self, folder: Path, store_url: str, redis_url: str, **settings: object) -> None:
        # The path of a Unix socket has a limit, and pytest's folders may be near it.
        self._runtime_dir = tempfile.TemporaryDirectory()
        self.runtime_dir = Path(self._runtime_dir.name)
        usual = {
            "front_processes": 2,
            "process_timeout_s": 3.0,
            "runtime_dir": self.runtime_dir,
        }
        super().__init__(folder, store_url, redis_url, **{**usual, **settings})
        # A new connection each time, so that requests come to either front.
        limits = httpx.Limits(max_keepalive_connections=0)
        self.http = httpx.Client(timeout=60, limits=limits)

    def wait_until_ready(self) -> None:
        self.wait_for_url("serving on ")
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
        super().close()
        self.http.close()
        self._runtime_dir.cleanup()


def children_of(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(each) for each in text.split()]


def is_alive(pid: int) -> bool:
    """Whether a process exists and is not only waiting to be reaped."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False
