import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from backbones.info import LoadedBackbone
from prompt_store.artifacts import read_artifact
from prompt_store.blobs import BlobStore
from service.inference.backbone_pass import EagerPass
from service.inference.bank import ArtifactBank
from service.inference.batcher import Batcher
from service.inference.engine import BatchReport, Engine
from service.inference.forward import Forward
from service.inference.local_engine import LocalEngine
from service.inference.remote.client import RemoteEngine
from service.inference.remote.pace import PaceMeter
from service.inference.remote.server import EngineServer
from service.inference.residency import Residency, ResidencyBudgets
from service.inference.rows import Row, RowOutcome
from service.metrics.inference import InferenceMetrics

BEAT_S = 0.1


class EngineHost:
    """The real engine of the tiny backbone behind the real socket, on this event loop.

    The engine's thread runs once `start` was called: until then, rows wait.
    """

    def __init__(self, loaded: LoadedBackbone, blobs: BlobStore, path: Path) -> None:
        loop = asyncio.get_running_loop()
        self.path = path
        self.batcher = Batcher(4)
        self.loaders = ThreadPoolExecutor(1)
        self.pace = PaceMeter()
        residency = Residency(
            ArtifactBank(loaded.vit.device),
            lambda digest: read_artifact(blobs.get_bytes(digest)),
            loaders=self.loaders,
            copiers=self.loaders,
            backbone_digest=loaded.info.digest,
            budgets=ResidencyBudgets(device_bytes=1 << 26, host_bytes=1 << 26),
            observer=InferenceMetrics(CollectorRegistry()),
        )
        self.local = LocalEngine(residency, self.batcher)

        def deliver(outcomes: list[tuple[Row, RowOutcome]]) -> None:
            loop.call_soon_threadsafe(self.local.settle, outcomes)

        def report(batch: BatchReport) -> None:
            loop.call_soon_threadsafe(self.pace.observe, batch.size, batch.forward_s)

        compute = Forward(EagerPass(loaded.vit))
        self.engine = Engine(compute, self.batcher, deliver=deliver, report=report)
        self.started = False
        self.server = EngineServer(
            self.local, loaded.info, is_healthy=lambda: True, pace=self.pace, beat_s=BEAT_S
        )

    def start(self) -> None:
        self.started = True
        self.engine.start()

    async def close(self) -> None:
        self.batcher.close()
        if self.started:
            await asyncio.to_thread(self.engine.stop, 10)
        self.loaders.shutdown()


HostOpener = Callable[..., AbstractAsyncContextManager[EngineHost]]
FrontOpener = Callable[..., AbstractAsyncContextManager[RemoteEngine]]


@pytest.fixture
def socket_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("s") / "engine"


@pytest.fixture
def open_host(loaded: LoadedBackbone, blobs: BlobStore, socket_path: Path) -> HostOpener:
    @asynccontextmanager
    async def open_(*, start: bool = True) -> AsyncIterator[EngineHost]:
        host = EngineHost(loaded, blobs, socket_path)
        if start:
            host.start()
        try:
            async with host.server.listening(socket_path):
                yield host
        finally:
            await host.close()

    return open_


@pytest.fixture
def open_front(loaded: LoadedBackbone, socket_path: Path) -> FrontOpener:
    @asynccontextmanager
    async def open_(
        num_slots: int = 16, on_pace: Callable[[int, float], None] = lambda *_: None
    ) -> AsyncIterator[RemoteEngine]:
        front = RemoteEngine(socket_path, name="test", num_slots=num_slots, on_pace=on_pace)
        connecting = asyncio.create_task(front.keep_connected(loaded.info))
        try:
            async with asyncio.timeout(10):
                await front.wait_connected()
            yield front
        finally:
            connecting.cancel()
            with suppress(asyncio.CancelledError):
                await connecting

    return open_


async def eventually(holds: Callable[[], bool], timeout_s: float = 10.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not holds():  # noqa: ASYNC110  what is awaited has no event
            await asyncio.sleep(0.01)


@pytest.fixture(name="eventually")
def _eventually() -> Callable[..., object]:
    return eventually
