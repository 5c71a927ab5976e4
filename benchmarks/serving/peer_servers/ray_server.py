# The peers are installed in an environment of their own, which the type checker does not see.
# pyright: basic, reportMissingImports=false, reportAttributeAccessIssue=false
"""Ray Serve: one deployment with `serve.batch`, or in variant "a" one a tenant.

Ray would give each replica one torch thread: the model sets its own number.
"""

import asyncio
import signal
import threading
from collections.abc import Sequence
from typing import Any

import ray
from ray import serve
from starlette.requests import Request

from benchmarks.serving.peer_servers.decoder import Decoder
from benchmarks.serving.peer_servers.job import PeerJob
from benchmarks.serving.peer_servers.model import Item, TenantModel

MAX_ONGOING = 4096
OBJECT_STORE_BYTES = 256_000_000


class Classify:
    """A replica."""

    def __init__(self, only: int | None) -> None:
        job = PeerJob.from_environment()
        self._model = TenantModel(job, only=only)
        self._decoder = Decoder(job.tenants)
        self._batched.set_max_batch_size(job.max_batch_size)
        self._batched.set_batch_wait_timeout_s(job.max_wait_ms / 1e3)

    @serve.batch(max_batch_size=1)
    async def _batched(self, items: Sequence[Item]) -> list[list[float]]:
        return await asyncio.to_thread(self._model.predict, items)

    async def __call__(self, request: Request) -> dict[str, list[float]]:
        """Decode beside the event loop, then wait for a batch."""
        pixels = await asyncio.to_thread(self._decoder, await request.body())
        tenant = int(request.query_params["tenant"])
        one: Any = self._batched  # the decorator takes one item and gives one result
        return {"probabilities": await one((tenant, pixels))}


def _deploy(job: PeerJob, name: str, route: str, only: int | None) -> None:
    deployment = serve.deployment(
        Classify,
        name=name,
        num_replicas=job.workers,
        max_ongoing_requests=MAX_ONGOING,
        ray_actor_options={"num_cpus": 0},
    )
    serve.run(deployment.bind(only), name=name, route_prefix=route)


def main() -> None:
    """Serve until told to stop."""
    job = PeerJob.from_environment()
    ray.init(
        include_dashboard=False,
        object_store_memory=OBJECT_STORE_BYTES,
        configure_logging=False,
        log_to_driver=False,
    )
    serve.start(http_options={"host": "127.0.0.1", "port": job.port})
    if job.variant == "a":
        for tenant in range(job.num_tenants):
            _deploy(job, f"tenant-{tenant}", f"/classify/{tenant}", tenant)
    else:
        _deploy(job, "classify", "/classify", None)
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    stopped.wait()
    ray.shutdown()


if __name__ == "__main__":
    main()
