"""A server under test: started, waited for, and ended with all its processes."""

import os
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from benchmarks.serving.errors import ServerStartError
from benchmarks.serving.processes import MARK, MarkedProcesses
from benchmarks.serving.tenants import Tenants

ROOT = Path(__file__).parents[2]
START_LIMIT_S = 120.0


@dataclass(frozen=True)
class RunningServer:
    """A server that answers.

    Attributes:
        url: Its base URL.
        processes: All its processes.
        start_s: How long it took to become ready.
    """

    url: str
    processes: MarkedProcesses
    start_s: float


@contextmanager
def running_server(
    command: Sequence[str],
    environment: Mapping[str, str],
    log: Path,
    find_url: Callable[[str], str | None],
    *,
    limit_s: float = START_LIMIT_S,
    max_memory_bytes: int | None = None,
) -> Generator[RunningServer]:
    """Run a server for as long as the context lasts.

    Args:
        command: Program and arguments.
        environment: Added to this process's own.
        log: File for what it prints.
        find_url: Called with the log until it returns the URL of a server that is ready.
        limit_s: How long that may take.
        max_memory_bytes: What it may use until then; no bound if None.

    Raises:
        ServerStartError: It ended, or exceeded a bound.
    """
    processes = MarkedProcesses(uuid.uuid4().hex)
    variables = {**os.environ, **environment, MARK: processes.mark}
    started_s = time.monotonic()
    with log.open("wb") as file:
        process = subprocess.Popen(  # noqa: S603 - our own commands
            command, cwd=ROOT, env=variables, stdout=file, stderr=subprocess.STDOUT
        )
    try:
        while (url := find_url(log.read_text(errors="replace"))) is None:
            _check(process, processes, log, time.monotonic() - started_s, limit_s, max_memory_bytes)
            time.sleep(0.1)
        yield RunningServer(url, processes, time.monotonic() - started_s)
    finally:
        processes.stop()
        process.wait(10)


def _check(
    process: subprocess.Popen[bytes],
    processes: MarkedProcesses,
    log: Path,
    elapsed_s: float,
    limit_s: float,
    max_memory_bytes: int | None,
) -> None:
    tail = log.read_text(errors="replace")[-2000:]
    if process.poll() is not None:
        raise ServerStartError(f"ended with {process.returncode}: {tail}")
    if elapsed_s > limit_s:
        raise ServerStartError(f"was not ready after {limit_s:g} s")
    if max_memory_bytes is not None and (used := processes.memory_bytes()) > max_memory_bytes:
        raise ServerStartError(
            f"used {used / 1e9:.1f} GB after {elapsed_s:.0f} s and was not ready; "
            f"limit {max_memory_bytes / 1e9:.1f} GB"
        )


@contextmanager
def running_service(
    tenants: Tenants, backbone: Mapping[str, str], folder: Path, **settings: object
) -> Generator[RunningServer]:
    """Run `python -m service` as a classifier with its defaults.

    Args:
        tenants: What it serves.
        backbone: Variables that choose the backbone.
        folder: For its log and spooled files.
        **settings: Further settings, by name without the prefix.
    """
    chosen = {
        "role": "classifier",
        "host": "127.0.0.1",
        "port": 0,
        "store_url": tenants.store_url,
        "upload_dir": folder,
        **settings,
    }
    variables = {f"HGPROMPT_{name.upper()}": str(value) for name, value in chosen.items()}
    command = [sys.executable, "-m", "service"]
    log = folder / f"service-{uuid.uuid4().hex[:8]}.log"
    with running_server(command, {**variables, **backbone}, log, _service_url) as server:
        yield server


def _service_url(log: str) -> str | None:
    """The address in the line of one process, or in that of the front processes' supervisor."""
    found = re.search(r"(?:Uvicorn running on|serving on) (http://[^\s\"]+)", log)
    if found is None:
        return None
    url = found.group(1)
    return url if httpx.get(f"{url}/readyz").is_success else None
