"""OpenTelemetry traces, sent where the standard `OTEL_…` variables say.

Nothing is recorded unless an endpoint is set and the SDK, from the extra `otel`, is installed:
until then the API's own tracer, which does nothing, is in place. A fit carries the context of the
request that asked for it through Redis (pydocket does that), so the worker's spans link to it.
"""

import logging
import os
import time
from collections.abc import Callable, Mapping

from opentelemetry import trace

from jobs.observer import AttemptReport

logger = logging.getLogger(__name__)

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
NANOSECONDS = 1_000_000_000


def start_tracing(
    service_name: str, environ: Mapping[str, str] = os.environ
) -> Callable[[], None] | None:
    """Send traces if an endpoint is set; call it once, when the process starts.

    Args:
        service_name: What this process is called there, unless `OTEL_SERVICE_NAME` says otherwise.
        environ: The environment, for whether an endpoint is set; the SDK reads the rest itself.

    Returns:
        To be called before the process exits: sends what is left. None if nothing is sent.
    """
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    if not any(environ.get(name) for name in ENDPOINTS):
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415
            OTLPSpanExporter,
        )
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ImportError as error:
        logger.warning("no traces are sent: install hgprompt[otel] (%s)", error)
        return None
    name = environ.get("OTEL_SERVICE_NAME") or service_name
    provider = TracerProvider(resource=Resource.create({"service.name": name}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    return provider.shutdown


def record_span(
    name: str, began_s: float, ended_s: float, attributes: Mapping[str, str | int] | None = None
) -> None:
    """Record a span that is over, as a child of the current one.

    Args:
        name: What was done.
        began_s: On the monotonic clock.
        ended_s: On the monotonic clock.
        attributes: More about it.
    """
    epoch_s = time.time() - time.monotonic()
    span = trace.get_tracer("hgprompt").start_span(
        name, start_time=int((epoch_s + began_s) * NANOSECONDS), attributes=attributes
    )
    span.end(int((epoch_s + ended_s) * NANOSECONDS))


def is_traced() -> bool:
    """Whether the current request or fit is recorded; else there is no need to say anything."""
    return trace.get_current_span().is_recording()


def record_attempt(report: AttemptReport) -> None:
    """Record the stages of an attempt as spans, and on the current span which attempt it was."""
    if not is_traced():
        return
    trace.get_current_span().set_attributes(
        {
            "hgprompt.fit": str(report.fit_id),
            "hgprompt.attempt": report.attempt,
            "hgprompt.method": report.method,
            "hgprompt.end": report.end,
        }
    )
    for run in report.stages:
        record_span(run.stage, run.began_s, run.ended_s)
