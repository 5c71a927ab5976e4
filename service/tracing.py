"""Traces of HTTP requests."""

from collections.abc import Callable

from fastapi import FastAPI

from jobs.tracing import start_tracing

UNTRACED = r"^https?://[^/]+/(livez|readyz|metrics)$"
"""Asked for every few seconds, and never of interest."""


def trace_requests(app: FastAPI) -> Callable[[], None] | None:
    """Have each request recorded as a span if an endpoint for traces is set.

    Without one, the application is left as it is: tracing costs nothing then.

    Returns:
        As `jobs.tracing.start_tracing`.
    """
    send_last_traces = start_tracing("hgprompt-service")
    if send_last_traces is not None:
        from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware  # noqa: PLC0415

        app.add_middleware(
            OpenTelemetryMiddleware,
            excluded_urls=UNTRACED,
            exclude_spans=["receive", "send"],
        )
    return send_last_traces
