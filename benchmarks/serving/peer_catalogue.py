"""The peers: how each is started, configured, and asked."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.serving.load import PreparedRequest
from benchmarks.serving.our_requests import CONTENT_TYPE, assignments
from benchmarks.serving.peer_servers.job import Variant
from benchmarks.serving.records import PeerSetup

ROOT = Path(__file__).parents[2]
PEERS_PYTHON = ROOT / ".venv-peers" / "bin" / "python"
_PACKAGE = "benchmarks.serving.peer_servers"
TENANT_BYTES = 4


@dataclass(frozen=True)
class Peer:
    """A server to compare with.

    Attributes:
        name: As in the reports.
        package: Its distribution.
        arguments: What the peers' interpreter is given, for a port.
        tuning: Configurations to try on a CPU; the first is used until they have been.
        gpu_tuning: The same for a GPU, which waits for decoding: most decode in processes.
        tenant_in_body: It hands its workers the body alone.
    """

    name: str
    package: str
    arguments: Callable[[int], Sequence[str]]
    tuning: tuple[PeerSetup, ...]
    gpu_tuning: tuple[PeerSetup, ...]
    tenant_in_body: bool = False

    def setups(self, device: str) -> tuple[PeerSetup, ...]:
        """Return the configurations to try on "cpu" or "cuda"."""
        return self.tuning if device == "cpu" else self.gpu_tuning

    def command(self, port: int) -> list[str]:
        """Return program and arguments."""
        return [str(PEERS_PYTHON), *self.arguments(port)]

    def requests(
        self, variant: Variant, num_tenants: int, pictures: Sequence[bytes]
    ) -> list[PreparedRequest]:
        """Return the same images to the same tenants in the same order as ours."""
        return [
            self.request(variant, tenant, picture)
            for tenant, picture in assignments(num_tenants, pictures)
        ]

    def request(self, variant: Variant, tenant: int, picture: bytes) -> PreparedRequest:
        """Return one request."""
        path = f"/classify/{tenant}" if variant == "a" else "/classify"
        if self.tenant_in_body:
            body = tenant.to_bytes(TENANT_BYTES, "big") + picture
            return PreparedRequest(path, body, (CONTENT_TYPE,))
        return PreparedRequest(f"{path}?tenant={tenant}", picture, (CONTENT_TYPE,))


def _module(name: str) -> Callable[[int], Sequence[str]]:
    return lambda _port: ["-m", f"{_PACKAGE}.{name}"]


def _bentoml(port: int) -> Sequence[str]:
    target = f"{_PACKAGE}.bentoml_server:FRONT"
    return ["-m", "bentoml", "serve", target, "--host=127.0.0.1", f"--port={port}"]


def _setups(*choices: tuple[int, float, int, int, int]) -> tuple[PeerSetup, ...]:
    return tuple(
        PeerSetup(max_batch_size=b, max_wait_ms=w, workers=k, threads=t, decoders=d)
        for b, w, k, t, d in choices
    )


GPU_SETUPS = _setups(
    (32, 2, 2, 2, 8), (32, 2, 1, 2, 8), (64, 2, 1, 2, 8), (64, 2, 1, 2, 12), (64, 2, 2, 2, 12)
)

# Largest batch, wait in ms, model processes, torch threads each, decoders. Clients keep at most 64
# requests in flight: 32 lets the next batch fill while one runs, 64 takes all there are.
PEERS: dict[str, Peer] = {
    "litserve": Peer(
        "LitServe",
        "litserve",
        _module("litserve_server"),
        _setups(
            (32, 2, 1, 2, 1),
            (32, 0, 1, 2, 1),
            (32, 2, 1, 2, 0),
            (64, 5, 1, 2, 1),
            (16, 2, 2, 1, 0),
            (8, 2, 2, 1, 1),
        ),
        GPU_SETUPS,
    ),
    "mosec": Peer(
        "Mosec",
        "mosec",
        _module("mosec_server"),
        _setups(
            (32, 1, 1, 2, 1),
            (32, 5, 1, 2, 1),
            (32, 1, 1, 2, 0),
            (64, 5, 1, 2, 1),
            (16, 1, 2, 1, 0),
            (8, 1, 2, 1, 1),
        ),
        GPU_SETUPS,
        tenant_in_body=True,
    ),
    "bentoml": Peer(
        "BentoML",
        "bentoml",
        _bentoml,
        _setups(
            (32, 60000, 1, 2, 1),
            (64, 60000, 1, 2, 1),
            (32, 10000, 1, 2, 1),
            (16, 60000, 2, 1, 1),
            (8, 60000, 2, 1, 1),
        ),
        _setups((32, 60000, 2, 2, 8), (32, 60000, 1, 2, 8), (64, 60000, 1, 2, 8)),
    ),
    "ray": Peer(
        "Ray Serve",
        "ray",
        _module("ray_server"),
        _setups(
            (32, 2, 1, 2, 0), (32, 0, 1, 2, 0), (64, 5, 1, 2, 0), (16, 2, 2, 1, 0), (8, 2, 2, 1, 0)
        ),
        _setups((32, 2, 1, 2, 0), (32, 2, 2, 2, 0), (32, 2, 4, 2, 0)),
    ),
}
