"""The application of one role: its routes, error handlers and middleware."""

import asyncio
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial

from fastapi import Depends, FastAPI
from fastapi.exceptions import RequestValidationError
from prometheus_client import CollectorRegistry, disable_created_metrics, generate_latest
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from service.classify_docs import CLASSIFY_PATHS
from service.cross_site import RefuseCrossSite, RefuseUnknownHost
from service.cut_off import AnswerCutOff
from service.error_handler import answer_error
from service.errors import KINDS
from service.http_server.gentle_close import CloseGently
from service.http_server.slow_readers import CutOffSlowReaders
from service.metrics.requests import MeasureRequests, RequestMetrics
from service.oip.docs import OIP_PATHS
from service.oip.repository import RepositoryIndex
from service.oip.routes import OIP_ROUTES
from service.oip.statistics import ModelStatistics
from service.openapi import install_openapi
from service.parts import Parts
from service.problems import ProblemError
from service.query_parameters import only_known_parameters
from service.routes import (
    backbone,
    classify,
    ensemble_aliases,
    ensemble_content,
    ensemble_events,
    ensembles,
    health,
    prompt_aliases,
    prompts,
    tasks,
)

API_ROUTERS = (
    prompts.router,
    prompt_aliases.router,
    tasks.router,
    ensembles.router,
    ensemble_events.router,
    ensemble_content.router,
    ensemble_aliases.router,
)


def create_app(
    parts: Parts, lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]]
) -> FastAPI:
    """Make the application; `lifespan` starts what runs beside the requests.

    Args:
        parts: What every route works with.
        lifespan: Sets `app.state.health` and, by role, `desk`, `idempotency` and `classifier`.
    """
    app = FastAPI(
        title="HGPrompt",
        summary="Prompt-ensemble serving from one frozen Vision Transformer.",
        version="1",
        lifespan=lifespan,
        redirect_slashes=False,
        # `tracing` has the requests' spans; this would look for a provider at each of them.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.state.parts = parts
    disable_created_metrics()  # a series more for each counter, which nothing reads
    app.state.metrics = CollectorRegistry()
    app.state.refresh = _nothing_to_refresh
    app.state.scrape = partial(_scrape, app)
    metrics = RequestMetrics(app.state.metrics, parts.drain)
    app.add_middleware(RefuseCrossSite, allowed=parts.settings.allowed_hosts)
    if parts.settings.checks_hosts:
        app.add_middleware(RefuseUnknownHost, known=parts.settings.known_hosts)
    app.add_middleware(CloseGently, drain=parts.drain)
    app.add_middleware(AnswerCutOff, drain=parts.drain)
    app.add_middleware(MeasureRequests, metrics=metrics)
    app.add_middleware(CutOffSlowReaders, idle_timeout_s=parts.settings.body_idle_timeout_s)
    for error in (*KINDS, ProblemError, ClientDisconnect, OSError, Exception):
        app.add_exception_handler(error, answer_error)
    app.add_exception_handler(HTTPException, answer_error)
    app.add_exception_handler(RequestValidationError, answer_error)
    if parts.settings.classifies:
        app.state.model_statistics = ModelStatistics(time.time)
        app.state.collect_statistics = app.state.model_statistics.collect
        app.state.repository_index = RepositoryIndex(parts.ensembles)
        app.state.repository_looking = asyncio.Lock()  # one look at a time
        # First, so that the hot paths are found at once.
        app.router.routes.extend((classify.classify_route, *OIP_ROUTES))
    app.include_router(health.router)
    checks = [Depends(only_known_parameters)]
    app.include_router(backbone.router, dependencies=checks)
    if parts.settings.serves_api:
        for router in API_ROUTERS:
            app.include_router(router, dependencies=checks)
    install_openapi(app, CLASSIFY_PATHS | OIP_PATHS if parts.settings.classifies else {})
    return app


async def _nothing_to_refresh() -> None:
    """Metrics that are asked for elsewhere; the API role has some."""


async def _scrape(app: FastAPI) -> bytes:
    """The metrics of this process."""
    await app.state.refresh()
    return generate_latest(app.state.metrics)
