import asyncio
import math

import pytest
from prometheus_client import CollectorRegistry

from jobs.errors import QueueUnavailableError
from service.metrics import fits
from service.metrics.fits import FitMetrics

pytestmark = pytest.mark.anyio


class Desk:
    """A desk whose Redis answers as a test wants."""

    async def queue_depth(self) -> int:
        return 3


class HangingDesk(Desk):
    async def queue_depth(self) -> int:
        await asyncio.Event().wait()
        return 0


class FailingDesk(Desk):
    async def queue_depth(self) -> int:
        raise QueueUnavailableError("no answer")


@pytest.mark.parametrize("desk", [Desk(), HangingDesk(), FailingDesk()])
async def test_a_redis_that_is_away_holds_up_no_other_metric(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fits, "REFRESH_S", 0.05)
    registry = CollectorRegistry()
    metrics = FitMetrics(registry, desk)  # pyright: ignore[reportArgumentType]
    async with asyncio.timeout(5):
        await metrics.refresh()
    depth = registry.get_sample_value("hgprompt_fit_queue_depth")
    assert depth is not None
    assert math.isnan(depth) if type(desk) is not Desk else depth == 3
