"""One server under one load."""

import time

from benchmarks.serving.load import Load
from benchmarks.serving.records import ServerRun
from benchmarks.serving.server import RunningServer

SETTLED_CORES = 0.2
SETTLE_STEP_S = 0.2
SETTLE_LIMIT_S = 4.0


def measure(server: RunningServer, load: Load, *, num_clients: int, duration_s: float) -> ServerRun:
    """Load a server for some seconds and return what it did and what it cost.

    Raises:
        LoadError: As `Load.run`.
    """
    before_s = server.processes.cpu_s()
    seen = load.run(num_clients=num_clients, duration_s=duration_s)
    cpu_s = server.processes.cpu_s() - before_s
    settle(server)
    return ServerRun(
        requests=seen.requests,
        throughput=seen.throughput,
        p50_ms=seen.p50_ms,
        p99_ms=seen.p99_ms,
        cpu_s=cpu_s,
        client_cpu_s=seen.client_cpu_s,
        duration_s=seen.duration_s,
    )


def settle(server: RunningServer) -> None:
    """Wait until a server has finished what clients left unanswered, or some seconds."""
    deadline_s = time.monotonic() + SETTLE_LIMIT_S
    before_s = server.processes.cpu_s()
    while time.monotonic() < deadline_s:
        time.sleep(SETTLE_STEP_S)
        now_s = server.processes.cpu_s()
        if now_s - before_s < SETTLED_CORES * SETTLE_STEP_S:
            return
        before_s = now_s
