"""The composition root of the worker: reads the settings once, loads the backbone, runs fits."""

import asyncio
import logging
import os
import sys

import joblib
import torch
from prometheus_client import CollectorRegistry, disable_created_metrics

from backbones.errors import BackboneError
from backbones.settings import BackboneSettings
from configuration.environment import SettingsError, warn_of_unknown_variables
from ensemble.errors import EnsembleError
from jobs.ensembles import EnsembleStore
from jobs.errors import WorkerBrokenError
from jobs.logs import configure_logging
from jobs.settings import DeploymentSettings
from jobs.tracing import start_tracing
from jobs.worker import run_worker, stop_on_signals
from prompt_store.blobs import BlobStore
from prompt_store.clock import utc_now
from prompt_store.errors import PromptStoreError
from prompt_store.objects import open_object_store
from prompt_store.scratch import remove_leftovers
from worker.fit_job import EXPECTED_ERRORS, FitJob
from worker.metrics import WorkerMetrics, serve_metrics
from worker.settings import WorkerSettings

logger = logging.getLogger(__name__)

# Unlike being out of memory, an error of the device itself (an illegal access, a failed assertion
# in a kernel, memory that cannot be corrected) fails every later call of the process too.
FATAL_ERRORS = (torch.AcceleratorError,)


def main() -> int:
    """Run a worker until SIGTERM or SIGINT; 1 if it cannot start, or can run no more fits."""
    remove_leftovers()
    try:
        settings, deployment = WorkerSettings.read(), DeploymentSettings.read()
        backbone_settings = BackboneSettings.read()
        configure_logging(settings.log_level)
        warn_of_unknown_variables()
        usable = min(torch.get_num_threads(), joblib.cpu_count())
        torch.set_num_threads(settings.num_threads or usable)
        objects = open_object_store(deployment.store_url)
        backbone = backbone_settings.load()
    except (BackboneError, EnsembleError, PromptStoreError, SettingsError) as error:
        sys.stderr.write(f"the worker cannot start: {error}\n")
        return 1
    blobs = BlobStore(objects)
    store = EnsembleStore(objects, blobs, utc_now, max_attempts=deployment.max_attempts)
    logger.info(
        "worker ready", extra={"backbone": backbone.info.digest, "device": str(backbone.vit.device)}
    )
    send_last_traces = start_tracing("hgprompt-worker")
    disable_created_metrics()  # as the service does
    registry = CollectorRegistry()
    metrics = WorkerMetrics(registry)
    try:
        serve_metrics(registry, settings.metrics_host, settings.metrics_port)
    except OSError as error:
        address = f"{settings.metrics_host}:{settings.metrics_port}"
        sys.stderr.write(f"the worker cannot serve its metrics on {address}: {error}\n")
        return 1
    fp32_settings = backbone_settings.model_copy(update={"precision": "fp32"})
    job = FitJob(backbone, blobs, fp32_settings.load)
    status = asyncio.run(_serve(job, store, deployment, metrics))
    if send_last_traces is not None:
        send_last_traces()
    logging.shutdown()
    sys.stderr.flush()
    # A fit thread that did not notice the stop flag must not keep the process alive.
    os._exit(status)


async def _serve(
    job: FitJob, store: EnsembleStore, deployment: DeploymentSettings, metrics: WorkerMetrics
) -> int:
    """Return the process's exit status."""
    stopping = asyncio.Event()
    stop_on_signals(stopping)
    try:
        await run_worker(
            job,
            store,
            deployment,
            stopping=stopping,
            expected=EXPECTED_ERRORS,
            fatal=FATAL_ERRORS,
            observer=metrics,
        )
    except WorkerBrokenError as error:
        sys.stderr.write(f"the worker exits, to be started anew: {error}\n")
        return 1
    return 0
