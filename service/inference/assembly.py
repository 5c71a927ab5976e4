"""Puts the parts of the engine together and runs them; `front_assembly` has what is before it."""

import asyncio
import os
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass

from backbones.info import LoadedBackbone
from prompt_store.artifacts import read_artifact
from prompt_store.blobs import BlobStore
from service.inference.bank import ArtifactBank
from service.inference.batcher import Batcher
from service.inference.engine import BatchReport, Engine
from service.inference.local_engine import LocalEngine
from service.inference.observer import InferenceObserver
from service.inference.residency import Residency
from service.inference.rows import Row, RowOutcome
from service.settings import ServiceSettings

LOAD_THREADS = min(8, os.cpu_count() or 1)


@dataclass(frozen=True)
class RunningEngine:
    """An engine that runs, and its client on this process's event loop."""

    client: LocalEngine
    engine: Engine
    residency: Residency


@asynccontextmanager
async def running_engine(
    loaded: LoadedBackbone,
    blobs: BlobStore,
    settings: ServiceSettings,
    observer: InferenceObserver,
    on_pace: Callable[[int, float], None],
) -> AsyncGenerator[RunningEngine]:
    """Run the engine for as long as the context lasts; on leaving, finish what is queued.

    Args:
        loaded: The backbone, on its device.
        blobs: Where artifacts are read from.
        settings: Sizes and limits.
        observer: Told of what happens.
        on_pace: Told on the event loop how many images took how many seconds.
    """
    loop = asyncio.get_running_loop()
    bank = ArtifactBank(loaded.info.embed_dim, loaded.vit.device)
    batcher = Batcher(settings.max_batch_size)
    loaders = ThreadPoolExecutor(LOAD_THREADS, thread_name_prefix="load")
    residency = Residency(
        bank,
        lambda digest: read_artifact(blobs.get_bytes(digest)),
        loaders,
        backbone_digest=loaded.info.digest,
        max_artifacts=settings.max_resident_artifacts,
        observer=observer,
    )
    local = LocalEngine(residency, batcher)

    def deliver(outcomes: list[tuple[Row, RowOutcome]]) -> None:
        loop.call_soon_threadsafe(local.settle, outcomes)

    def observe(batch: BatchReport) -> None:
        observer.batch_ran(batch)
        loop.call_soon_threadsafe(on_pace, batch.size, batch.forward_s)

    engine = Engine(loaded.vit, bank, batcher, deliver=deliver, report=observe)
    engine.start()
    try:
        yield RunningEngine(local, engine, residency)
    finally:
        await asyncio.to_thread(engine.stop, settings.shutdown_grace_s)
        loaders.shutdown(wait=True, cancel_futures=True)
