"""One server under one load."""

from benchmarks.serving.load import Load
from benchmarks.serving.records import ServerRun
from benchmarks.serving.server import RunningServer


def measure(server: RunningServer, load: Load, *, num_clients: int, duration_s: float) -> ServerRun:
    """Load a server for some seconds and return what it did and what it cost.

    Raises:
        LoadError: As `Load.run`.
    """
    before_s = server.processes.cpu_s()
    seen = load.run(num_clients=num_clients, duration_s=duration_s)
    return ServerRun(
        requests=seen.requests,
        throughput=seen.throughput,
        p50_ms=seen.p50_ms,
        p99_ms=seen.p99_ms,
        cpu_s=server.processes.cpu_s() - before_s,
        client_cpu_s=seen.client_cpu_s,
        duration_s=seen.duration_s,
    )
