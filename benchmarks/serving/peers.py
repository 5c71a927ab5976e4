"""The service and another server under the same load, in interleaved rounds."""

import os
import socket
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from benchmarks.serving.equality import (
    TOLERANCE,
    answers,
    largest_difference,
    our_probabilities,
)
from benchmarks.serving.errors import ServerStartError
from benchmarks.serving.load import Load
from benchmarks.serving.measuring import measure, settle
from benchmarks.serving.our_requests import assignments, classify_requests
from benchmarks.serving.peer_catalogue import PEERS_PYTHON, Peer
from benchmarks.serving.peer_servers.job import VARIABLE, PeerJob, Variant
from benchmarks.serving.pictures import Picture
from benchmarks.serving.provenance import Measured
from benchmarks.serving.records import PeerCell, PeerSetup, ServerRun
from benchmarks.serving.server import RunningServer, running_server
from benchmarks.serving.tenants import NUM_CLASSES, Tenants
from benchmarks.serving.tenants_file import write_tenants

CHECKED_REQUESTS = 24
MAX_MEMORY_BYTES = {"cpu": 12_000_000_000, "cuda": 100_000_000_000}
RESUMED_S = 0.5  # for what a server catches up with after it was suspended


@dataclass(frozen=True)
class Arena:
    """What all measurements of one run share.

    Attributes:
        measured: The backbone.
        picture: Their kind.
        pictures: Encoded images.
        tenants: Published ones, at least as many as any cell uses.
        tenants_path: The same as one file.
        scratch: Folder for requests and logs.
        start_limit_s: How long a peer may take to answer for every tenant.
    """

    measured: Measured
    picture: Picture
    pictures: list[bytes]
    tenants: Tenants
    tenants_path: Path
    scratch: Path
    start_limit_s: float = 90.0

    def write_tenants(self) -> None:
        """Write the tenants for the peers."""
        write_tenants(self.measured.loaded.info, len(self.tenants.names), self.tenants_path)


@contextmanager
def running_peer(
    arena: Arena, peer: Peer, variant: Variant, num_tenants: int, setup: PeerSetup
) -> Generator[RunningServer]:
    """Run a peer until every tenant it is to hold has answered once.

    Raises:
        ServerStartError: Its environment is missing, or a bound of time or memory is exceeded.
    """
    if not PEERS_PYTHON.exists():
        raise ServerStartError(f"{PEERS_PYTHON} is missing: run `make peers`")
    port = _free_port()
    job = PeerJob(
        variant=variant,
        num_tenants=num_tenants,
        port=port,
        tenants=arena.tenants_path,
        **setup.model_dump(),
    )
    variables = {
        **arena.measured.environment,
        VARIABLE: job.model_dump_json(),
        "PYTHONPATH": os.pathsep.join(
            [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
        ),
        "OMP_NUM_THREADS": str(setup.threads),
        "BENTOML_DO_NOT_TRACK": "True",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    url = f"http://127.0.0.1:{port}"
    waiting = list(range(num_tenants)) if variant == "a" else [0]

    def ready(_log: str) -> str | None:
        while waiting:
            request = peer.request(variant, waiting[0], arena.pictures[0])
            try:
                response = httpx.post(url + request.path, content=request.body, timeout=10)
            except httpx.HTTPError:
                return None
            if not response.is_success:
                return None
            waiting.pop(0)
        return url

    with running_server(
        peer.command(port),
        variables,
        arena.scratch / f"{peer.package}-{variant}.log",
        ready,
        limit_s=arena.start_limit_s,
        max_memory_bytes=MAX_MEMORY_BYTES[arena.measured.device],
    ) as server:
        yield server


def check_equal(
    arena: Arena, ours: RunningServer, theirs: RunningServer, peer: Peer, variant: Variant, num: int
) -> float:
    """Return the largest difference of both servers' probabilities over some requests.

    Raises:
        UnequalOutputsError: It exceeds the tolerance of the precision.
    """
    sent = assignments(num, arena.pictures)[:CHECKED_REQUESTS]
    mine = classify_requests(arena.tenants.names[:num], arena.pictures, top_k=NUM_CLASSES)
    documents = answers(ours.url, mine[: len(sent)])
    others = answers(theirs.url, [peer.request(variant, tenant, image) for tenant, image in sent])
    return largest_difference(
        [our_probabilities(each) for each in documents],
        [each["probabilities"] for each in others],
        tolerance=TOLERANCE[arena.measured.precision],
    )


def measure_cell(
    arena: Arena,
    ours: RunningServer,
    theirs: RunningServer,
    peer: Peer,
    variant: Variant,
    *,
    tenants: int,
    clients: int,
    rounds: int,
    duration_s: float,
) -> PeerCell:
    """Load both in turn, whoever is first in one round being second in the next.

    The one that is not loaded is suspended: some servers spin while they wait.

    Raises:
        LoadError: A request was not answered 200.
    """
    mine = classify_requests(arena.tenants.names[:tenants], arena.pictures)
    loads = {
        "ours": (ours, Load(ours.url, mine, arena.scratch, "ours")),
        "peer": (
            theirs,
            Load(
                theirs.url, peer.requests(variant, tenants, arena.pictures), arena.scratch, "peer"
            ),
        ),
    }
    idle_s: dict[str, float] = {"ours": 0.0, "peer": 0.0}
    runs: dict[str, list[ServerRun]] = {"ours": [], "peer": []}
    for server, load in loads.values():
        load.warm_up(num_clients=clients)
        settle(server)
    for number in range(rounds):
        for name in ("ours", "peer") if number % 2 == 0 else ("peer", "ours"):
            server, load = loads[name]
            other = "peer" if name == "ours" else "ours"
            idle = loads[other][0].processes
            before_s = idle.cpu_s()
            with idle.paused():
                time.sleep(RESUMED_S)
                runs[name].append(measure(server, load, num_clients=clients, duration_s=duration_s))
            idle_s[other] += idle.cpu_s() - before_s
    measured_s = sum(run.duration_s for run in runs["ours"])
    return PeerCell(
        tenants=tenants,
        clients=clients,
        ours=tuple(runs["ours"]),
        peer=tuple(runs["peer"]),
        peer_idle_cpu=idle_s["peer"] / measured_s,
        our_idle_cpu=idle_s["ours"] / measured_s,
    )


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
