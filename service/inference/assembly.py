"""Puts the parts of the engine together and runs them; `front_assembly` has what is before it."""

import asyncio
import gc
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass

import joblib

from backbones.info import LoadedBackbone
from jobs.ensembles import EnsembleStore
from prompt_store.artifacts import read_artifact
from prompt_store.blobs import BlobStore
from service.inference.bank import ArtifactBank
from service.inference.batcher import Batcher
from service.inference.compute_threads import computing_alone
from service.inference.engine import BatchReport, Engine
from service.inference.engine_parts import (
    default_crowded_batch_size,
    default_max_batch_size,
    make_forward,
    make_streams,
    residency_budgets,
    room_maker,
    token_cost,
    use_cores,
    warm_up_engine,
)
from service.inference.known_shapes import known_prompt_shapes
from service.inference.local_engine import LocalEngine
from service.inference.observer import InferenceObserver
from service.inference.residency import Residency
from service.inference.rows import Row, RowOutcome
from service.settings import ServiceSettings

LOAD_THREADS = min(8, joblib.cpu_count())
COPY_THREADS = 2


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
    ensembles: EnsembleStore,
    settings: ServiceSettings,
    observer: InferenceObserver,
    on_pace: Callable[[int, float], None],
) -> AsyncGenerator[RunningEngine]:
    """Run the engine for as long as the context lasts; on leaving, finish what is queued.

    Args:
        loaded: The backbone, on its device.
        blobs: Where artifacts are read from.
        ensembles: What there is to serve: the forward passes are warmed up for it.
        settings: Sizes and limits.
        observer: Told of what happens.
        on_pace: Told on the event loop how many images took how many seconds.
    """
    loop = asyncio.get_running_loop()
    device = loaded.vit.device
    bank = ArtifactBank(device)
    max_batch_size = settings.max_batch_size or default_max_batch_size(device)
    forward = make_forward(loaded.vit, max_batch_size, cuda_graphs=settings.cuda_graphs)
    streams = make_streams(device)
    batcher = Batcher(
        max_batch_size,
        crowded_batch_size=settings.crowded_batch_size or default_crowded_batch_size(device),
        streams=streams,
        cost=token_cost(loaded.info),
    )
    loaders = ThreadPoolExecutor(LOAD_THREADS, thread_name_prefix="load")
    copiers = ThreadPoolExecutor(COPY_THREADS, thread_name_prefix="copy")
    residency = Residency(
        bank,
        lambda digest: read_artifact(blobs.get_bytes(digest)),
        loaders=loaders,
        copiers=copiers,
        backbone_digest=loaded.info.digest,
        budgets=residency_budgets(settings, device),
        observer=observer,
    )
    local = LocalEngine(residency, batcher)

    def deliver(outcomes: list[tuple[Row, RowOutcome]]) -> None:
        loop.call_soon_threadsafe(local.settle, outcomes)

    def observe(batch: BatchReport) -> None:
        observer.batch_ran(batch)
        # Under load, which is when the pace matters, every stream does as much meanwhile.
        loop.call_soon_threadsafe(on_pace, batch.size, batch.forward_s / streams.num_streams)

    if settings.warm_up:
        with computing_alone():
            shapes = await asyncio.to_thread(
                known_prompt_shapes, ensembles, blobs, loaded.info.digest
            )
            await asyncio.to_thread(
                warm_up_engine, forward, bank, loaded.info, max_batch_size, shapes
            )
    engine = Engine(
        forward,
        batcher,
        deliver=deliver,
        report=observe,
        prepare=use_cores(streams.num_streams),
        make_room=room_maker(residency, loop),
        free_cached=forward.free_cached,
        num_streams=streams.num_streams,
    )
    engine.start()
    try:
        yield RunningEngine(local, engine, residency)
    finally:
        # Not one of the threads of `asyncio.to_thread`: they may all hang in the store.
        with ThreadPoolExecutor(1, thread_name_prefix="stop") as own:
            await loop.run_in_executor(own, engine.stop, settings.shutdown_grace_s)
        loaders.shutdown(wait=False, cancel_futures=True)  # one may hang in the store
        copiers.shutdown(wait=False, cancel_futures=True)
        gc.unfreeze()  # what the warm-up froze is to be freed at exit: libraries complain of leaks
