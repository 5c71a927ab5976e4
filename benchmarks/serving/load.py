"""The load: `wrk`, a closed loop of clients that send prepared requests in turn."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.serving.errors import LoadError

SCRIPT = Path(__file__).parent / "requests.lua"
MARK = "MEASURED "
TIMEOUT_S = 60


@dataclass(frozen=True)
class PreparedRequest:
    """One POST request.

    Attributes:
        path: Path and query.
        body: Its body.
        headers: Besides Host and Content-Length.
    """

    path: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()

    def encode(self, host: str) -> bytes:
        """Return it as it goes over the wire."""
        fixed = (("Host", host), ("Content-Length", str(len(self.body))))
        lines = [f"{name}: {value}" for name, value in (*fixed, *self.headers)]
        head = "\r\n".join([f"POST {self.path} HTTP/1.1", *lines, "", ""])
        return head.encode() + self.body


@dataclass(frozen=True)
class LoadResult:
    """What one run of the load generator saw.

    Attributes:
        requests: Answers.
        duration_s: Length of the run.
        p50_ms: Median latency.
        p99_ms: 99th percentile of the latency.
        client_cpu_s: Processor time of the load generator.
    """

    requests: int
    duration_s: float
    p50_ms: float
    p99_ms: float
    client_cpu_s: float

    @property
    def throughput(self) -> float:
        """Answers per second."""
        return self.requests / self.duration_s


class Load:
    """A set of requests, written once and sent as often as wanted.

    Args:
        url: Base URL of the server.
        requests: In the order in which they are sent; the clients share it.
        folder: Where the requests are kept for `wrk`.
        name: Of this set, unique in the folder.
    """

    def __init__(
        self, url: str, requests: Sequence[PreparedRequest], folder: Path, name: str
    ) -> None:
        self._url = url
        host = url.removeprefix("http://")
        encoded = [request.encode(host) for request in requests]
        self._requests = folder / f"{name}.requests"
        self._lengths = folder / f"{name}.lengths"
        self._requests.write_bytes(b"".join(encoded))
        self._lengths.write_text("".join(f"{len(each)}\n" for each in encoded))

    def warm_up(self, *, num_clients: int, duration_s: float = 1.0) -> None:
        """As `run`, whatever the answers: what does not work is noticed when it is measured."""
        self._output(num_clients, duration_s)

    def run(self, *, num_clients: int, duration_s: float) -> LoadResult:
        """Keep `num_clients` requests in flight for some seconds (whole ones, as `wrk` counts).

        Raises:
            LoadError: `wrk` is missing or failed, or a request was not answered 200.
        """
        output, cpu_s = self._output(num_clients, duration_s)
        return parse_output(output, client_cpu_s=cpu_s)

    def _output(self, num_clients: int, duration_s: float) -> tuple[str, float]:
        wrk = shutil.which("wrk")
        if wrk is None:
            raise LoadError("wrk is not installed (Debian and Ubuntu: apt-get install wrk)")
        seconds = max(1, round(duration_s))
        command = [wrk, f"-c{num_clients}", "-t1", f"-d{seconds}s", f"--timeout={TIMEOUT_S}s"]
        command += [f"-s{SCRIPT}", self._url, "--", str(self._requests), str(self._lengths)]
        return _run(command, limit_s=seconds + TIMEOUT_S)


def parse_output(output: str, *, client_cpu_s: float) -> LoadResult:
    """Read what `requests.lua` printed.

    Raises:
        LoadError: It printed nothing, nothing was answered, or some answers were not 200.
    """
    lines = [line for line in output.splitlines() if line.startswith(MARK)]
    if len(lines) != 1:
        raise LoadError(f"wrk printed no measurement:\n{output[-2000:]}")
    seen = json.loads(lines[0].removeprefix(MARK))
    bad = {key: seen[key] for key in ("refused", "broken", "timeouts") if seen[key]}
    if bad or not seen["requests"]:
        raise LoadError(f"of {seen['requests']} requests, these were not answered 200: {bad}")
    return LoadResult(
        requests=seen["requests"],
        duration_s=seen["duration_us"] / 1e6,
        p50_ms=seen["p50_us"] / 1e3,
        p99_ms=seen["p99_us"] / 1e3,
        client_cpu_s=client_cpu_s,
    )


def _run(command: Sequence[str], *, limit_s: float) -> tuple[str, float]:
    """Run a command and return its output and processor seconds."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # noqa: S603
    if process.stdout is None:
        raise AssertionError("the command has no output")
    deadline_s = time.monotonic() + limit_s
    while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if time.monotonic() > deadline_s:
            process.kill()
            process.wait()
            raise LoadError(f"{command[0]} did not end within {limit_s:g} s")
        time.sleep(0.01)
    output = process.stdout.read().decode()
    process.stdout.close()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise LoadError(f"{command[0]} failed with {process.returncode}:\n{output[-2000:]}")
    return output, usage.ru_utime + usage.ru_stime
