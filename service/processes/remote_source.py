"""A front's engine: the one in the engine's process."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

from backbones.info import BackboneInfo
from service.engine_source import Pace
from service.health import NotHealthyError
from service.inference.engine_client import EngineClient
from service.inference.remote.client import RemoteEngine
from service.metrics.inference import InferenceMetrics
from service.parts import Parts
from service.processes.assignment import Assignment

logger = logging.getLogger(__name__)

FIRST_CONNECTION_S = 2.0
"""An engine that is there has taken a front in by then; while it is away requests get 503."""


class RemoteEngineSource:
    """An `EngineSource`. Its engine is restarted by the supervisor, so it is not vital here.

    Args:
        assigned: Where the engine's process is.
        on_backbone: Told of an engine that computes in another arithmetic than the one before.
    """

    is_vital = False

    def __init__(
        self, assigned: Assignment, on_backbone: Callable[[BackboneInfo], None] = lambda _: None
    ) -> None:
        self._assigned = assigned
        self._on_backbone = on_backbone
        self._engine: RemoteEngine | None = None

    @asynccontextmanager
    async def running(
        self,
        parts: Parts,
        metrics: InferenceMetrics,  # noqa: ARG002  what the engine does is measured there
        on_pace: Pace,
    ) -> AsyncGenerator[EngineClient]:
        """Stay connected, or wait for an engine that is away; see `EngineSource.running`."""
        fronts = parts.settings.num_fronts
        engine = self._engine = RemoteEngine(
            self._assigned.engine_socket,
            name=self._assigned.name,
            num_slots=parts.settings.max_queue,
            # The engine works for the other fronts too: from here it looks so much slower.
            on_pace=lambda num_images, seconds: on_pace(num_images, seconds * fronts),
        )

        def leave(task: asyncio.Task[None]) -> None:
            if not task.cancelled() and (error := task.exception()) is not None:
                logger.critical("this front is of no use any more, leaving", exc_info=error)
                parts.drain.begin()

        connecting = asyncio.create_task(engine.keep_connected(parts.backbone, self._on_backbone))
        connecting.add_done_callback(leave)
        try:
            await _first_connection(engine, connecting)
            yield engine
        finally:
            connecting.cancel()
            await asyncio.wait({connecting})  # why it ended early has been logged

    async def check(self) -> None:
        """See `EngineSource.check`."""
        if self._engine is None or not self._engine.is_healthy:
            raise NotHealthyError("the engine's process is not there, or cannot work")


async def _first_connection(engine: RemoteEngine, connecting: asyncio.Task[None]) -> None:
    """Wait for an engine that is there; raises what keeps this front from ever having one."""
    waiting = asyncio.create_task(engine.wait_connected())
    try:
        await asyncio.wait(
            {waiting, connecting},
            timeout=FIRST_CONNECTION_S,
            return_when=asyncio.FIRST_COMPLETED,
        )
    finally:
        waiting.cancel()
    if connecting.done():
        connecting.result()
