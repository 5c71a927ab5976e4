"""The composition root: reads the settings once, makes the parts, runs the server."""

import asyncio
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager

import uvicorn
from fastapi import FastAPI
from pydantic import ValidationError

from backbones.errors import BackboneError
from backbones.info import LoadedBackbone
from backbones.settings import BackboneSettings
from jobs.desk import open_desk
from jobs.ensembles import EnsembleStore
from jobs.logs import configure_logging
from jobs.settings import DeploymentSettings
from prompt_store.blobs import BlobStore
from prompt_store.clock import utc_now
from prompt_store.errors import PromptStoreError
from prompt_store.idempotency import IdempotencyStore
from prompt_store.objects import open_object_store
from prompt_store.registry import PromptRegistry, TaskRegistry
from service.alias_metrics import AliasMetrics
from service.app import create_app
from service.drain import Drain, DrainingServer
from service.fit_metrics import FitMetrics
from service.health import Check, Health, NotHealthyError
from service.inference.assembly import running_classifier
from service.inference.precision import load_serving_backbone
from service.metrics import InferenceMetrics
from service.parts import Parts
from service.settings import ServiceSettings
from service.tracing import trace_requests


def build_app(
    settings: ServiceSettings, deployment: DeploymentSettings, loaded: LoadedBackbone
) -> FastAPI:
    """Make the application of a role over the deployment's store and Redis.

    Args:
        settings: Role, limits.
        deployment: Where store and Redis are.
        loaded: The backbone; the "api" role keeps only what describes it.

    Raises:
        StoreUnavailableError: The store cannot be opened or does not keep its promises.
    """
    objects = open_object_store(deployment.store_url)
    blobs = BlobStore(objects)
    parts = Parts(
        settings=settings,
        backbone=loaded.info,
        objects=objects,
        blobs=blobs,
        prompts=PromptRegistry(objects, blobs, utc_now),
        tasks=TaskRegistry(objects, blobs, utc_now),
        ensembles=EnsembleStore(objects, blobs, utc_now, max_attempts=deployment.max_attempts),
        drain=Drain(settings.drain_s),
    )
    return create_app(parts, _lifespan(parts, deployment, loaded if settings.classifies else None))


def _lifespan(
    parts: Parts, deployment: DeploymentSettings, loaded: LoadedBackbone | None
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        checks: dict[str, Check] = {}
        async with AsyncExitStack() as stack:
            if parts.settings.serves_api:
                desk = await stack.enter_async_context(open_desk(parts.ensembles, deployment))
                app.state.desk = desk
                app.state.fit_metrics = FitMetrics(app.state.metrics, desk)
                app.state.idempotency = IdempotencyStore(parts.objects, utc_now)
                checks["redis"] = desk.ping
                checks["store"] = lambda: asyncio.to_thread(parts.objects.probe)
            if loaded is not None:
                checks["engine"] = await _start_classifier(app, stack, parts, loaded)
            app.state.health = Health(checks, vital=frozenset({"engine"}))
            yield

    return lifespan


async def _start_classifier(
    app: FastAPI, stack: AsyncExitStack, parts: Parts, loaded: LoadedBackbone
) -> Check:
    """Start classification and return its health check."""
    metrics = InferenceMetrics(app.state.metrics)
    running = await stack.enter_async_context(
        running_classifier(
            loaded,
            parts.blobs,
            parts.ensembles,
            parts.settings,
            metrics,
            AliasMetrics(app.state.metrics).count,
        )
    )
    metrics.watch_front(running.classifier.admission, running.decoder)
    metrics.watch_engine(running.residency)
    app.state.classifier = running.classifier

    async def check() -> None:
        if not running.engine.healthy:
            raise NotHealthyError("the engine does not run, or its latest batches all failed")

    return check


def main() -> None:
    """Run the service until SIGTERM; exits with status 1 when it is not configured right."""
    try:
        settings = ServiceSettings()
        deployment = DeploymentSettings()
        backbone = BackboneSettings()
    except ValidationError as error:
        sys.exit(_explained(error))
    configure_logging(settings.log_level)
    try:
        if not settings.classifies:  # only what describes the backbone is needed
            backbone = backbone.model_copy(update={"device": "cpu"})
        precision = settings.serving_precision if settings.classifies else "fp32"
        app = build_app(settings, deployment, load_serving_backbone(backbone, precision))
    except (BackboneError, PromptStoreError) as error:
        sys.exit(f"service: {error}")
    send_last_traces = trace_requests(app)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=int(settings.shutdown_grace_s) + 1,
    )
    DrainingServer(config, app.state.parts.drain).run()
    if send_last_traces is not None:
        send_last_traces()


def _explained(error: ValidationError) -> str:
    lines = [
        f"  HGPROMPT_{'_'.join(map(str, item['loc'])).upper() or '…'}: {item['msg']}"
        for item in error.errors()
    ]
    return "service: the settings are not valid\n" + "\n".join(lines)
