# The peers are installed in an environment of their own, which the type checker does not see.
# pyright: basic, reportMissingImports=false, reportAttributeAccessIssue=false
"""LitServe: one `LitAPI` with dynamic batching, or in variant "a" one a tenant.

The body arrives raw through a FastAPI dependency, because base64 in JSON or multipart would cost it
more. ZeroMQ carries the requests to the workers (`fast_queue`).
"""

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any

import litserve
from fastapi import Depends, Request

from benchmarks.serving.peer_servers.decoder import Decoder
from benchmarks.serving.peer_servers.job import PeerJob
from benchmarks.serving.peer_servers.model import Item, TenantModel

JOB = PeerJob.from_environment()
DECODER = Decoder(JOB.tenants)


async def received(request: Request) -> tuple[int, Any]:
    """Return the tenant, and the image or (with decoders) its pixels."""
    body = await request.body()
    tenant = int(request.query_params["tenant"])
    return tenant, await asyncio.to_thread(DECODER, body) if JOB.decoders else body


class Classify(litserve.LitAPI):
    """All tenants, or in variant "a" only one."""

    only: int | None = None

    def setup(self, device: str) -> None:  # noqa: ARG002 - the signature is LitServe's
        """Load the model in the worker process."""
        self.model = TenantModel(JOB, only=self.only)

    def decode_request(self, request: Annotated[Any, Depends(received)]) -> Item:
        """Return the tenant and its pixels."""
        tenant, image = request
        return tenant, DECODER(image) if isinstance(image, bytes) else image

    def batch(self, inputs: Sequence[Item]) -> list[Item]:
        """Leave the batch as it is: the model stacks it."""
        return list(inputs)

    def unbatch(self, output: list[list[float]]) -> list[list[float]]:
        """Leave it as it is."""
        return output

    def predict(self, x: Any) -> Any:
        """Classify a batch, or the one item if the largest batch is 1."""
        return self.model.predict(x) if isinstance(x, list) else self.model.predict([x])[0]

    def encode_response(self, output: list[float]) -> dict[str, list[float]]:
        """Answer as every peer does."""
        return {"probabilities": output}


def _api(path: str, only: int | None) -> Classify:
    api = Classify(
        max_batch_size=JOB.max_batch_size, batch_timeout=JOB.max_wait_ms / 1e3, api_path=path
    )
    api.only = only
    return api


def main() -> None:
    """Serve until told to stop."""
    if JOB.variant == "a":
        apis = [_api(f"/classify/{tenant}", tenant) for tenant in range(JOB.num_tenants)]
    else:
        apis = [_api("/classify", None)]
    server = litserve.LitServer(
        apis if len(apis) > 1 else apis[0],
        accelerator="auto",
        devices=1,
        workers_per_device=JOB.workers,
        timeout=60,
        fast_queue=True,
    )
    server.run(
        host="127.0.0.1",
        port=JOB.port,
        num_api_servers=max(1, JOB.decoders),
        generate_client_file=False,
        log_level="warning",
    )


if __name__ == "__main__":
    main()
