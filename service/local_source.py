"""The engine in this process, as one process for everything has it."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from backbones.info import LoadedBackbone
from service.engine_source import Pace
from service.health import NotHealthyError
from service.inference.assembly import RunningEngine, running_engine
from service.inference.engine_client import EngineClient
from service.metrics.inference import InferenceMetrics
from service.parts import Parts


class LocalEngineSource:
    """An `EngineSource`.

    Args:
        loaded: The backbone, on its device.
    """

    is_vital = True

    def __init__(self, loaded: LoadedBackbone) -> None:
        self._loaded = loaded
        self._running: RunningEngine | None = None

    @asynccontextmanager
    async def running(
        self, parts: Parts, metrics: InferenceMetrics, on_pace: Pace
    ) -> AsyncGenerator[EngineClient]:
        """Run the engine; see `EngineSource.running`."""
        async with running_engine(
            self._loaded, parts.blobs, parts.ensembles, parts.settings, metrics, on_pace
        ) as running:
            metrics.watch_engine(running.residency)
            self._running = running
            yield running.client

    async def check(self) -> None:
        """See `EngineSource.check`."""
        if self._running is None or not self._running.engine.healthy:
            raise NotHealthyError("the engine does not run, or its latest batches all failed")
