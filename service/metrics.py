"""Prometheus metrics, in a registry of this process's application."""

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.inference.assembly import RunningClassifier
from service.inference.engine import BatchReport

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
UNMATCHED = "(unmatched)"


class RequestMetrics:
    """What every role measures."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "hgprompt_requests",
            "HTTP requests by route template and status",
            ["method", "route", "status"],
            registry=registry,
        )
        self.seconds = Histogram(
            "hgprompt_request_seconds",
            "Time to the end of the response",
            ["route"],
            buckets=SECONDS,
            registry=registry,
        )


class InferenceMetrics:
    """What the classifier measures.

    Args:
        registry: Where the metrics are registered.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._queue_seconds = Histogram(
            "hgprompt_queue_seconds",
            "Time an image waited for its forward pass",
            buckets=SECONDS,
            registry=registry,
        )
        self._forward_seconds = Histogram(
            "hgprompt_forward_seconds",
            "Duration of a forward pass",
            buckets=SECONDS,
            registry=registry,
        )
        self._batch_size = Histogram(
            "hgprompt_batch_size", "Images in a forward pass", buckets=SIZES, registry=registry
        )
        self._batch_ensembles = Histogram(
            "hgprompt_batch_ensembles",
            "Distinct artifacts in a forward pass",
            buckets=SIZES,
            registry=registry,
        )
        self._failures = Counter(
            "hgprompt_batch_failures", "Forward passes that failed", registry=registry
        )
        self._queue_depth = Gauge(
            "hgprompt_queue_depth", "Images between admission and answer", registry=registry
        )
        self._resident_artifacts = Gauge(
            "hgprompt_resident_artifacts", "Artifacts on the device", registry=registry
        )

    def watch(self, running: RunningClassifier) -> None:
        """Read queue depth and resident artifacts at each scrape."""
        self._queue_depth.set_function(lambda: running.classifier.admission.num_images)
        self._resident_artifacts.set_function(lambda: running.residency.num_resident)

    def observe(self, report: BatchReport) -> None:
        """Record one forward pass; called on the engine's thread."""
        for wait_s in report.queue_s:
            self._queue_seconds.observe(wait_s)
        self._forward_seconds.observe(report.forward_s)
        self._batch_size.observe(report.size)
        self._batch_ensembles.observe(report.num_artifacts)
        if report.failed:
            self._failures.inc()


class MeasureRequests:
    """ASGI middleware that counts and times requests by route template, never by path."""

    def __init__(self, app: ASGIApp, metrics: RequestMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass an HTTP call on and record how it ended; 0 if no response was started."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 0

        async def noting_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        started_s = time.perf_counter()
        try:
            await self._app(scope, receive, noting_send)
        finally:
            route = getattr(scope.get("route"), "path", UNMATCHED)
            seconds = time.perf_counter() - started_s
            self._metrics.requests.labels(scope["method"], route, str(status)).inc()
            self._metrics.seconds.labels(route).observe(seconds)
