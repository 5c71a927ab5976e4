# The peers are installed in an environment of their own, which the type checker does not see.
# pyright: basic, reportMissingImports=false, reportAttributeAccessIssue=false
"""Mosec: a stage that decodes and a stage that batches, or one stage that does both.

A worker sees the body alone, so the tenant's number comes in its first four bytes.
"""

import os
import sys
from collections.abc import Sequence
from typing import Any

from mosec import Runtime, Server, Worker

from benchmarks.serving.peer_servers.decoder import Decoder
from benchmarks.serving.peer_servers.job import PeerJob
from benchmarks.serving.peer_servers.model import Item, TenantModel

TENANT_BYTES = 4
ONLY = "HGPROMPT_BENCH_ONLY_TENANT"
TIMEOUT_MS = 60_000


def _read(decoder: Decoder, data: bytes) -> Item:
    return int.from_bytes(data[:TENANT_BYTES], "big"), decoder(data[TENANT_BYTES:])


class Decode(Worker):
    """Image to pixels, in a process of its own."""

    def __init__(self) -> None:
        super().__init__()
        self._decoder = Decoder(PeerJob.from_environment().tenants)

    def deserialize(self, data: bytes) -> bytes:
        """Leave the body as it is."""
        return data

    def forward(self, data: bytes) -> Item:
        """Decode one image."""
        return _read(self._decoder, data)


class Classify(Worker):
    """Batches of images to probabilities."""

    def __init__(self) -> None:
        super().__init__()
        job = PeerJob.from_environment()
        only = os.environ.get(ONLY)
        self._model = TenantModel(job, only=None if only is None else int(only))
        self._decoder = Decoder(job.tenants)

    def deserialize(self, data: bytes) -> Item:
        """Decode here if no stage before does."""
        return _read(self._decoder, data)

    def forward(self, data: Any) -> Any:
        """Classify a batch, or the one item if the largest batch is 1."""
        items: Sequence[Item] = data if isinstance(data, list) else [data]
        found = [{"probabilities": each} for each in self._model.predict(items)]
        return found if isinstance(data, list) else found[0]


def _classify(job: PeerJob, workers: int, only: int | None) -> Runtime:
    return Runtime(
        Classify,
        num=workers,
        max_batch_size=job.max_batch_size,
        max_wait_time=max(1, round(job.max_wait_ms)),
        timeout=TIMEOUT_MS / 1e3,
        env=None if only is None else [{ONLY: str(only)}] * workers,
    )


def main() -> None:
    """Serve until told to stop."""
    job = PeerJob.from_environment()
    arguments = {"address": "127.0.0.1", "port": job.port, "timeout": TIMEOUT_MS, "capacity": 4096}
    sys.argv[1:] = [f"--{name}={value}" for name, value in arguments.items()]
    decode = [Runtime(Decode, num=job.decoders)] if job.decoders else []
    if job.variant == "a":
        tenants = range(job.num_tenants)
        routes = {f"/classify/{n}": [*decode, _classify(job, job.workers, n)] for n in tenants}
    else:
        routes = {"/classify": [*decode, _classify(job, job.workers, None)]}
    server = Server()
    server.register_runtime(routes)
    server.run()


if __name__ == "__main__":
    main()
