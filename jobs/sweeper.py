"""Queues again every unfinished fit that nobody runs, whatever Redis has lost.

Each process of a deployment runs a sweeper; per interval one of them sweeps.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from jobs.dispatch import FitQueue
from jobs.ensembles import EnsembleStore
from jobs.errors import QueueUnavailableError
from jobs.progress import ProgressBoard
from prompt_store.errors import StoreUnavailableError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sweeper:
    """Compares what the store says must end with what Redis says is running.

    Attributes:
        name: Names this process, unique in the deployment.
        interval_s: Time between sweeps of the deployment.
    """

    store: EnsembleStore
    queue: FitQueue
    board: ProgressBoard
    name: str
    interval_s: float

    async def sweep(self) -> int:
        """Queue every abandoned fit once, return how many there were; forget workers that are gone.

        Raises:
            QueueUnavailableError: Redis is away.
            StoreUnavailableError: The store is away.
        """
        unfinished = await asyncio.to_thread(lambda: list(self.store.unfinished()))
        silent = await self.board.silent(unfinished)
        abandoned = await asyncio.to_thread(
            lambda: [fit_id for fit_id in silent if not self.store.ended(fit_id)]
        )
        await self.queue.enqueue_abandoned(abandoned)
        await self.queue.forget_workers()
        return len(abandoned)

    @asynccontextmanager
    async def sweeping(self) -> AsyncGenerator[None]:
        """Sweep until the block ends, in turn with the other processes of the deployment."""
        stopping = asyncio.Event()
        task = asyncio.create_task(self._sweep_until(stopping))
        try:
            yield
        finally:
            # redis-py can swallow a cancellation while it connects; the flag is seen all the same.
            stopping.set()
            task.cancel()
            await asyncio.wait({task})

    async def _sweep_until(self, stopping: asyncio.Event) -> None:
        while not stopping.is_set():
            await self._take_turn()
            with suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), self.interval_s)

    async def _take_turn(self) -> None:
        log = {"worker": self.name}
        try:
            if await self.board.take_sweep(self.name):
                await self.sweep()
        except (QueueUnavailableError, StoreUnavailableError) as error:
            logger.warning("sweep put off: %s", error, extra=log)
        except Exception:
            logger.exception("sweep failed", extra=log)
