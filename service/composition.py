"""Makes the application of a role over the deployment's store and Redis."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager

from fastapi import FastAPI

from backbones.info import BackboneInfo
from jobs.desk import open_desk
from jobs.ensembles import EnsembleStore
from jobs.settings import DeploymentSettings
from prompt_store.blobs import BlobStore
from prompt_store.clock import utc_now
from prompt_store.idempotency import IdempotencyStore
from prompt_store.objects import open_object_store
from prompt_store.registry import PromptRegistry, TaskRegistry
from service.app import create_app
from service.engine_source import EngineSource
from service.health import Check, Health
from service.http_server.drain import Drain
from service.inference.front_assembly import admission_of, running_classifier
from service.metrics.aliases import AliasMetrics
from service.metrics.fits import FitMetrics
from service.metrics.inference import InferenceMetrics
from service.parts import Parts
from service.settings import ServiceSettings


def compose(
    settings: ServiceSettings,
    deployment: DeploymentSettings,
    backbone: BackboneInfo,
    engine: EngineSource | None,
) -> FastAPI:
    """Make the application.

    Args:
        settings: Role, limits.
        deployment: Where store and Redis are.
        backbone: What the engine runs, or would run.
        engine: Where the engine is; None for the role "api", which has none.

    Raises:
        StoreUnavailableError: The store cannot be opened or does not keep its promises.
    """
    objects = open_object_store(deployment.store_url)
    blobs = BlobStore(objects)
    parts = Parts(
        settings=settings,
        backbone=backbone,
        objects=objects,
        blobs=blobs,
        prompts=PromptRegistry(objects, blobs, utc_now),
        tasks=TaskRegistry(objects, blobs, utc_now),
        ensembles=EnsembleStore(objects, blobs, utc_now, max_attempts=deployment.max_attempts),
        drain=Drain(settings.drain_s),
    )
    return create_app(parts, _lifespan(parts, deployment, engine))


def _lifespan(
    parts: Parts, deployment: DeploymentSettings, engine: EngineSource | None
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        checks: dict[str, Check] = {}
        vital: set[str] = set()
        async with AsyncExitStack() as stack:
            if parts.settings.serves_api:
                desk = await stack.enter_async_context(open_desk(parts.ensembles, deployment))
                app.state.desk = desk
                app.state.refresh = FitMetrics(app.state.metrics, desk).refresh
                app.state.idempotency = IdempotencyStore(parts.objects, utc_now)
                checks["redis"] = desk.ping
                checks["store"] = lambda: asyncio.to_thread(parts.objects.probe)
            if engine is not None:
                await _start_classifier(app, stack, parts, engine)
                checks["engine"] = engine.check
                vital |= {"engine"} if engine.is_vital else set()
            app.state.health = Health(checks, vital=frozenset(vital))
            yield

    return lifespan


async def _start_classifier(
    app: FastAPI, stack: AsyncExitStack, parts: Parts, engine: EngineSource
) -> None:
    metrics = InferenceMetrics(app.state.metrics)
    admission = admission_of(parts.settings)
    client = await stack.enter_async_context(engine.running(parts, metrics, admission.observe))
    running = await stack.enter_async_context(
        running_classifier(
            client,
            parts.backbone,
            parts.ensembles,
            parts.settings,
            admission=admission,
            observer=metrics,
            assigned=AliasMetrics(app.state.metrics).count,
        )
    )
    metrics.watch_front(admission, running.decoder)
    app.state.classifier = running.classifier
