# The peers are installed in an environment of their own, which the type checker does not see.
# pyright: basic, reportMissingImports=false, reportAttributeAccessIssue=false
"""BentoML: a front service takes raw bodies and decodes, an inner one batches adaptively.

A batchable method takes one parameter: tenant and pixels travel together. In variant "a" there is
one inner service a tenant.
"""

import asyncio
import contextlib
from typing import Any

import aiohttp
import bentoml
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from benchmarks.serving.peer_servers.decoder import Decoder
from benchmarks.serving.peer_servers.job import PeerJob
from benchmarks.serving.peer_servers.model import TenantModel

JOB = PeerJob.from_environment()
DECODER = Decoder(JOB.tenants)
TRAFFIC = {"timeout": 60}
STALE_CONNECTIONS = 64
"""The inner service closes connections that were idle for 5 s, and the front does not notice."""


def _inner(name: str, only: int | None) -> Any:
    class Inner:
        def __init__(self) -> None:
            self.model = TenantModel(JOB, only=only)

        @bentoml.api(
            batchable=True,
            max_batch_size=max(2, JOB.max_batch_size),
            max_latency_ms=max(1, round(JOB.max_wait_ms)),
        )
        def predict(self, items: list[Any]) -> list[Any]:
            return self.model.predict(items)

    Inner.__name__ = Inner.__qualname__ = name
    return bentoml.service(Inner, name=name, workers=JOB.workers, traffic=TRAFFIC)


TENANTS = range(JOB.num_tenants) if JOB.variant == "a" else ()
INNER = {f"Tenant{n}": _inner(f"Tenant{n}", n) for n in TENANTS} or {
    "Shared": _inner("Shared", None)
}
globals().update(INNER)  # BentoML finds the services of a program by name


async def classify(request: Request) -> JSONResponse:
    """Decode and hand over to the inner service."""
    tenant = int(request.query_params["tenant"])
    pixels = await asyncio.to_thread(DECODER, await request.body())
    front: Any = Front.current
    inner = getattr(front, f"Tenant{tenant}" if JOB.variant == "a" else "Shared")
    (probabilities,) = await _predicted(inner, tenant, pixels)
    return JSONResponse({"probabilities": probabilities})


async def _predicted(inner: Any, tenant: int, pixels: Any) -> Any:
    """Ask the inner service, again where the connection had been closed for being idle."""
    for _ in range(STALE_CONNECTIONS):
        with contextlib.suppress(aiohttp.ClientConnectionError):
            return await inner.to_async.predict([(tenant, pixels)])
    return await inner.to_async.predict([(tenant, pixels)])


APP = Starlette(
    routes=[Route(path, classify, methods=["POST"]) for path in ("/classify", "/classify/{tenant}")]
)


class Front:
    """The public service."""

    current: Any = None

    def __init__(self) -> None:
        Front.current = self


for _name, _service in INNER.items():
    setattr(Front, _name, bentoml.depends(_service))
FRONT = bentoml.service(
    bentoml.asgi_app(APP)(Front), name="Front", workers=max(1, JOB.decoders), traffic=TRAFFIC
)
