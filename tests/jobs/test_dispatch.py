import pytest
import redis

from jobs.dispatch import FitQueue
from jobs.records import FitId
from jobs.settings import DeploymentSettings

pytestmark = pytest.mark.anyio


async def test_whether_a_fit_waits_takes_one_look_at_its_run_and_one_at_the_queue(
    redis_url: str, store_url: str
) -> None:
    deployment = DeploymentSettings(redis_url=redis_url, store_url=store_url)
    fit_id = FitId("zoo", 1)
    with redis.Redis.from_url(deployment.redis_url) as client:
        async with FitQueue(deployment) as queue:
            await queue.enqueue(fit_id)
            client.config_resetstat()
            await queue.enqueue_abandoned([fit_id])
            asked = client.info("commandstats")
            assert await queue.depth() == 1
        calls = {name.removeprefix("cmdstat_"): found["calls"] for name, found in asked.items()}
        assert calls.pop("xrange") == 1
        assert {name: calls[name] for name in calls if name.startswith("h")} == {"hgetall": 1}
