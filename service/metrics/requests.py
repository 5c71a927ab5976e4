"""Prometheus metrics of HTTP requests, for every role."""

import time

from opentelemetry import trace
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
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
                _name_span(scope)
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
            self._metrics.in_flight.dec()
            self._record(scope, status, time.perf_counter() - started_s)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        method, route = _method(scope), _route(scope)
        self._metrics.requests.labels(method, route, str(status)).inc()
        self._metrics.seconds.labels(route).observe(seconds)
        if REFUSAL in scope:
            self._metrics.refused.labels(scope[REFUSAL]).inc()


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
