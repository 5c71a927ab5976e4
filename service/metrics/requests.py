"""Prometheus metrics of HTTP requests, for every role."""

import time

from opentelemetry import trace
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.http_server.drain import Drain
from service.metrics.buckets import SECONDS

UNMATCHED = "(unmatched)"
OTHER_METHOD = "(other)"
METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})
REFUSAL = "hgprompt.refusal"
"""Key of the ASGI scope under which an error handler says why a request was refused."""


class RequestMetrics:
    """What every role measures.

    Args:
        registry: Where the metrics are registered.
        drain: Whether the process is leaving.
    """

    def __init__(self, registry: CollectorRegistry, drain: Drain) -> None:
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
        self.in_flight = Gauge(
            "hgprompt_requests_in_flight", "HTTP requests being answered", registry=registry
        )
        self.refused = Counter(
            "hgprompt_refused_requests",
            "HTTP requests answered with a problem, by what was wrong",
            ["reason"],
            registry=registry,
        )
        draining = Gauge(
            "hgprompt_draining", "1 while the process is leaving, else 0", registry=registry
        )
        draining.set_function(lambda: float(drain.begun.is_set()))
        ProcessCollector(registry=registry)


class MeasureRequests:
    """ASGI middleware that counts and times requests by route template, never by path.

    A stream of events lasts as long as what it tells of: once begun it is not in flight any more,
    and it is counted but not timed.
    """

    def __init__(self, app: ASGIApp, metrics: RequestMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass an HTTP call on and record how it ended; 0 if no response was started."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, is_stream = 0, False

        async def noting_send(message: Message) -> None:
            nonlocal status, is_stream
            if message["type"] == "http.response.start":
                status, is_stream = message["status"], _is_stream(message)
                _name_span(scope)
                if is_stream:
                    self._metrics.in_flight.dec()
            await send(message)

        started_s = time.perf_counter()
        self._metrics.in_flight.inc()
        try:
            await self._app(scope, receive, noting_send)
        except Exception:
            status = status or 500  # answered further out
            scope[REFUSAL] = "internal"
            raise
        finally:
            if not is_stream:
                self._metrics.in_flight.dec()
                elapsed_s = time.perf_counter() - started_s
                self._metrics.seconds.labels(_route(scope)).observe(elapsed_s)
            self._count(scope, status)

    def _count(self, scope: Scope, status: int) -> None:
        self._metrics.requests.labels(_method(scope), _route(scope), str(status)).inc()
        if REFUSAL in scope:
            self._metrics.refused.labels(scope[REFUSAL]).inc()


def _is_stream(start: Message) -> bool:
    return Headers(raw=start["headers"]).get("content-type", "").startswith("text/event-stream")


def _route(scope: Scope) -> str:
    return getattr(scope.get("route"), "path", UNMATCHED)


def _method(scope: Scope) -> str:
    return scope["method"] if scope["method"] in METHODS else OTHER_METHOD


def _name_span(scope: Scope) -> None:
    """Call the request's span, if it has one, by its route; the span ends with the answer."""
    span = trace.get_current_span()
    if span.is_recording():
        span.update_name(f"{_method(scope)} {_route(scope)}")
        span.set_attribute("http.route", _route(scope))
