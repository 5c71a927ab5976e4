"""Prometheus metrics of a worker, on a port of their own if one is set."""

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    start_http_server,
)

from jobs.observer import AttemptReport

STAGE_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000, 10_000)


class WorkerMetrics:
    """What a worker measures: a `jobs.observer.FitObserver`.

    Args:
        registry: Where the metrics are registered.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._attempts = Counter(
            "hgprompt_fit_attempts",
            "Attempts at fits, by how they ended",
            ["end"],
            registry=registry,
        )
        self._seconds = Histogram(
            "hgprompt_fit_seconds",
            "Duration of an attempt that ended its fit, by method",
            ["method"],
            buckets=STAGE_SECONDS,
            registry=registry,
        )
        self._stage_seconds = Histogram(
            "hgprompt_fit_stage_seconds",
            "Duration of a stage of an attempt",
            ["stage"],
            buckets=STAGE_SECONDS,
            registry=registry,
        )
        self._running = Gauge(
            "hgprompt_fits_running", "Fits that this worker runs at the moment", registry=registry
        )
        ProcessCollector(registry=registry)

    def attempt_began(self) -> None:
        """Record that a fit runs."""
        self._running.inc()

    def attempt_ended(self, report: AttemptReport) -> None:
        """Record how it went."""
        self._running.dec()
        self._attempts.labels(report.end).inc()
        if report.end in ("succeeded", "failed"):
            self._seconds.labels(report.method).observe(report.seconds)
        for run in report.stages:
            self._stage_seconds.labels(run.stage).observe(run.ended_s - run.began_s)


def serve_metrics(registry: CollectorRegistry, host: str, port: int) -> None:
    """Answer scrapes on a thread until the process ends; port 0 answers none.

    Raises:
        OSError: The port cannot be listened on.
    """
    if port:
        start_http_server(port, host, registry)
