"""Puts the parts of classification together and runs them."""

import asyncio
import os
import random
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass

from backbones.info import LoadedBackbone
from images.decoding import ImageLimits
from jobs.ensembles import EnsembleStore
from prompt_store.artifacts import read_artifact
from prompt_store.blobs import BlobStore
from service.inference.admission import Admission
from service.inference.bank import ArtifactBank
from service.inference.batcher import Batcher
from service.inference.classifier import Classifier
from service.inference.decoding import DecodePool
from service.inference.engine import BatchReport, Engine
from service.inference.engine_parts import make_forward, residency_budgets, warm_up_engine
from service.inference.known_shapes import known_prompt_shapes
from service.inference.local_engine import LocalEngine
from service.inference.observer import InferenceObserver
from service.inference.residency import Residency
from service.inference.resolver import Assigned, Resolver
from service.inference.rows import Row, RowOutcome
from service.settings import ServiceSettings

LOAD_THREADS = min(8, os.cpu_count() or 1)
COPY_THREADS = 2


@dataclass(frozen=True)
class RunningClassifier:
    """A classifier with its engine running."""

    classifier: Classifier
    engine: Engine
    residency: Residency
    decoder: DecodePool


@asynccontextmanager
async def running_classifier(
    loaded: LoadedBackbone,
    blobs: BlobStore,
    ensembles: EnsembleStore,
    settings: ServiceSettings,
    observer: InferenceObserver,
    assigned: Assigned,
) -> AsyncGenerator[RunningClassifier]:
    """Run the engine for as long as the context lasts; on leaving, finish what is queued.

    Args:
        loaded: The backbone, on its device.
        blobs: Where artifacts are read from.
        ensembles: What names mean.
        settings: Sizes and limits.
        observer: Told of what happens.
        assigned: Called on the event loop with an alias and the version of one request.
    """
    loop = asyncio.get_running_loop()
    bank = ArtifactBank(loaded.vit.device)
    compute = make_forward(loaded.vit, settings)
    batcher = Batcher(settings.max_batch_size)
    admission = Admission(max_images=settings.max_queue, max_bytes=settings.max_inflight_bytes)
    loaders = ThreadPoolExecutor(LOAD_THREADS, thread_name_prefix="load")
    copiers = ThreadPoolExecutor(COPY_THREADS, thread_name_prefix="copy")
    limits = ImageLimits(max_bytes=settings.max_image_bytes, max_pixels=settings.max_image_pixels)
    decoder = DecodePool(
        settings.decode_threads,
        limits,
        loaded.info.preprocessing,
        report=observer.image_decoded,
    )
    residency = Residency(
        bank,
        lambda digest: read_artifact(blobs.get_bytes(digest)),
        loaders=loaders,
        copiers=copiers,
        backbone_digest=loaded.info.digest,
        budgets=residency_budgets(settings, loaded.vit.device),
        observer=observer,
    )
    local = LocalEngine(residency, batcher)
    classifier = Classifier(
        resolver=Resolver(
            ensembles,
            ttl_s=settings.resolve_ttl_s,
            rng=random.SystemRandom(),
            assigned=assigned,
        ),
        admission=admission,
        decoder=decoder,
        engine=local,
        deadline_s=settings.request_deadline_s,
        observer=observer,
    )

    def deliver(outcomes: list[tuple[Row, RowOutcome]]) -> None:
        loop.call_soon_threadsafe(local.settle, outcomes)

    def observe(batch: BatchReport) -> None:
        observer.batch_ran(batch)
        loop.call_soon_threadsafe(admission.observe, batch.size, batch.forward_s)

    if settings.warm_up:
        shapes = await asyncio.to_thread(known_prompt_shapes, ensembles, blobs)
        await asyncio.to_thread(warm_up_engine, compute, bank, loaded.info, settings, shapes)
    engine = Engine(compute, batcher, deliver=deliver, report=observe)
    engine.start()
    try:
        yield RunningClassifier(classifier, engine, residency, decoder)
    finally:
        await asyncio.to_thread(engine.stop, settings.shutdown_grace_s)
        decoder.close()
        loaders.shutdown(wait=True, cancel_futures=True)
        copiers.shutdown(wait=True, cancel_futures=True)
