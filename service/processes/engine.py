"""The engine's process: artifacts, batches and the backbone, for all fronts of the host."""

import asyncio
import signal
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path

import uvloop
from prometheus_client import CollectorRegistry, ProcessCollector, disable_created_metrics

from backbones.errors import BackboneError
from backbones.info import LoadedBackbone
from backbones.settings import BackboneSettings
from configuration.environment import SettingsError
from jobs.ensembles import EnsembleStore
from jobs.logs import configure_logging
from jobs.settings import DeploymentSettings
from prompt_store.blobs import BlobStore
from prompt_store.clock import utc_now
from prompt_store.errors import PromptStoreError
from prompt_store.objects import ObjectStore, open_object_store
from service.http_server.last_resort import leave
from service.inference.assembly import running_engine
from service.inference.compute_threads import computing_alone, keep_to_processors
from service.inference.precision import load_serving_backbone
from service.inference.remote.pace import PaceMeter
from service.inference.remote.server import EngineServer
from service.metrics.host import scraped, serving_metrics
from service.metrics.inference import InferenceMetrics
from service.processes.announced_backbone import announce_backbone
from service.processes.assignment import Assignment, assignment
from service.processes.grace import fronts_grace_s
from service.processes.parent import die_with_parent
from service.processes.pulse import beating
from service.settings import ServiceSettings


def main() -> None:
    """Compute until SIGTERM; exits with status 1 when it is not configured right."""
    assigned = assignment()
    die_with_parent(assigned.parent_pid)
    settings = ServiceSettings()
    configure_logging(settings.log_level, process=assigned.name)
    disable_created_metrics()  # as the fronts do
    keep_to_processors()
    try:
        with computing_alone():
            loaded = load_serving_backbone(BackboneSettings.read(), settings.serving_precision)
        objects = open_object_store(DeploymentSettings.read().store_url)
    except (BackboneError, PromptStoreError, SettingsError) as error:
        sys.exit(f"service: {error}")
    uvloop.run(_serve(assigned, settings, loaded, objects))
    leave()


async def _serve(
    assigned: Assignment, settings: ServiceSettings, loaded: LoadedBackbone, objects: ObjectStore
) -> None:
    registry, pace = CollectorRegistry(), PaceMeter()
    metrics = InferenceMetrics(registry)
    ProcessCollector(registry=registry)
    blobs = BlobStore(objects)
    ensembles = EnsembleStore(objects, blobs, utc_now)
    async with running_engine(loaded, blobs, ensembles, settings, metrics, pace.observe) as running:
        stop = _told_to_stop()  # until here a signal ends the process: nobody waits for it yet
        metrics.watch_engine(running.residency)
        server = EngineServer(
            running.client,
            loaded.info,
            is_healthy=lambda: running.engine.healthy,
            pace=pace,
            beat_s=assigned.beat_s,
        )
        folder = Path(assigned.folder)
        announce_backbone(folder, loaded.info)
        async with (
            serving_metrics(partial(scraped, registry), folder, assigned.name),
            server.listening(assigned.engine_socket),
            beating(assigned.pulse_fd, assigned.beat_s, lambda: running.engine.healthy),
        ):
            await stop.wait()
            # Whoever tells every process to end tells this one before the fronts are done.
            with suppress(TimeoutError):
                async with asyncio.timeout(fronts_grace_s(settings)):
                    await server.wait_for_fronts()


def _told_to_stop() -> asyncio.Event:
    """Return what SIGTERM sets, and SIGINT, by which the supervisor hurries its children."""
    stop = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, stop.set)
    return stop


if __name__ == "__main__":
    main()
