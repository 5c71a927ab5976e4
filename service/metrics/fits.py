"""Prometheus metrics of the fits' queue, as a process with the role "api" sees it."""

import asyncio
import math

from prometheus_client import CollectorRegistry, Gauge

from jobs.desk import FitDesk
from jobs.errors import QueueUnavailableError

REFRESH_S = 0.5
"""All other metrics wait for it, and another process gives the whole answer a second."""


class FitMetrics:
    """What there is to do for the workers.

    Args:
        registry: Where the metric is registered.
        desk: Asked at each scrape.
    """

    def __init__(self, registry: CollectorRegistry, desk: FitDesk) -> None:
        self._desk = desk
        self._depth = Gauge(
            "hgprompt_fit_queue_depth",
            "Fits that are queued or running; NaN while Redis does not answer",
            registry=registry,
        )

    async def refresh(self) -> None:
        """Ask Redis anew, for at most `REFRESH_S`."""
        try:
            async with asyncio.timeout(REFRESH_S):
                self._depth.set(await self._desk.queue_depth())
        except (QueueUnavailableError, TimeoutError):
            self._depth.set(math.nan)
