"""The engine's side of the event loop: pins artifacts and exchanges rows with its thread."""

import asyncio
import time
from collections.abc import Callable, Sequence

import numpy as np

from service.inference.batcher import Batcher
from service.inference.engine_client import Computed
from service.inference.errors import EngineStoppedError
from service.inference.residency import Residency
from service.inference.rows import Row, RowOutcome


class LocalEngine:
    """An `EngineClient` whose engine is a thread of this process.

    Args:
        residency: Pins artifacts on the device.
        batcher: Where rows wait for the engine.
        clock: Monotonic seconds, the engine's clock.
    """

    def __init__(
        self,
        residency: Residency,
        batcher: Batcher,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.residency = residency
        self._batcher = batcher
        self._clock = clock
        self._waiting: dict[Row, asyncio.Future[RowOutcome]] = {}

    async def compute(
        self,
        digest: str,
        pixels: Sequence[np.ndarray],
        *,
        deadline_s: float,
        wants_features: bool = False,
    ) -> Computed:
        """Compute images under an artifact; see `EngineClient.compute`."""
        async with self.residency.pinned(digest) as entry:
            now_s = self._clock()
            rows = [
                Row(each, entry, deadline_s, submitted_s=now_s, wants_features=wants_features)
                for each in pixels
            ]
            return Computed(entry.classes, await self._outcomes(rows))

    async def load(self, digest: str) -> None:
        """Bring an artifact to the device; see `EngineClient.load`."""
        async with self.residency.pinned(digest):
            pass

    async def unload(self, digest: str) -> None:
        """Let an artifact go unless it is in use; see `EngineClient.unload`."""
        self.residency.drop(digest)

    def settle(self, outcomes: list[tuple[Row, RowOutcome]]) -> None:
        """Hand the engine's outcomes to the callers that still wait; on the event loop."""
        for row, outcome in outcomes:
            waiting = self._waiting.pop(row, None)
            if waiting is not None and not waiting.done():
                waiting.set_result(outcome)

    async def _outcomes(self, rows: list[Row]) -> tuple[RowOutcome, ...]:
        loop = asyncio.get_running_loop()
        futures = [self._waiting.setdefault(row, loop.create_future()) for row in rows]
        try:
            if not self._batcher.submit(rows):
                raise EngineStoppedError("the service is stopping and takes no more images")
            return tuple([await future for future in futures])
        finally:
            for row in rows:
                row.cancelled = True  # without effect on rows that were answered
                self._waiting.pop(row, None)
