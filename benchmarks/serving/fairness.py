"""How much a greedy tenant delays another.

The modest tenant keeps a few requests in flight: alone, beside a neighbour that keeps as many, and
beside one that keeps ten times as many. What a tenant may have is half of the service once there
are two of them, whatever the other asks for, so the last two should differ little.
"""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from rich.progress import track

from benchmarks.serving.load import Load, LoadResult
from benchmarks.serving.measuring import settle
from benchmarks.serving.our_requests import classify_requests
from benchmarks.serving.pictures import Picture, load_pictures
from benchmarks.serving.provenance import Measured
from benchmarks.serving.records import ClientRun, FairnessRecord, FairnessRound, Neighbours
from benchmarks.serving.server import RunningServer, running_service
from benchmarks.serving.tenants import publish_tenants

LEAD_S = 1.0
"""How much longer than the modest tenant's load its neighbour's lasts, before and after it."""


@dataclass(frozen=True)
class FairnessPlan:
    """How long and how much.

    Attributes:
        clients: Requests that the modest tenant keeps in flight.
        greed: Times as many of the greedy one.
        rounds: Interleaved rounds.
        duration_s: Seconds of each load.
    """

    clients: int = 4
    greed: int = 10
    rounds: int = 5
    duration_s: float = 8.0


def measure_fairness(
    measured: Measured, picture: Picture, plan: FairnessPlan, store: Path, scratch: Path
) -> FairnessRecord:
    """Measure one backbone with one kind of image.

    Args:
        measured: The backbone.
        picture: What is sent.
        plan: Sizes.
        store: Folder for published tenants, kept between runs.
        scratch: Folder for requests and logs.

    Raises:
        BenchmarkError: The server or the load generator failed.
    """
    pictures = load_pictures(picture)
    tenants = publish_tenants(measured.loaded.info, 2, store)
    with running_service(tenants, measured.environment, scratch) as server:
        modest, neighbour = (
            Load(server.url, classify_requests([name], pictures), scratch, name)
            for name in tenants.names
        )
        for load in (modest, neighbour):
            load.warm_up(num_clients=plan.clients)
        rounds = [
            _round(server, modest, neighbour, plan)
            for _ in track(range(plan.rounds), description=f"{measured.label} {picture}")
        ]
    return FairnessRecord(
        provenance=measured.provenance(),
        backbone=measured.record,
        picture=picture,
        clients=plan.clients,
        greed=plan.greed,
        rounds=tuple(rounds),
    )


def fairness_key(record: FairnessRecord) -> tuple[str, str, str]:
    """Return what tells a record from the others: backbone, precision, kind of image."""
    return record.backbone.label, record.backbone.precision, record.picture


def _round(
    server: RunningServer, modest: Load, neighbour: Load, plan: FairnessPlan
) -> FairnessRound:
    alone = _client_run(modest.run(num_clients=plan.clients, duration_s=plan.duration_s))
    settle(server)
    beside_equal = _together(server, modest, neighbour, plan, num_clients=plan.clients)
    beside_greedy = _together(
        server, modest, neighbour, plan, num_clients=plan.greed * plan.clients
    )
    return FairnessRound(alone=alone, beside_equal=beside_equal, beside_greedy=beside_greedy)


def _together(
    server: RunningServer, modest: Load, neighbour: Load, plan: FairnessPlan, *, num_clients: int
) -> Neighbours:
    """Load both tenants; the neighbour's load begins earlier and ends later."""
    with ThreadPoolExecutor(1) as pool:
        beside = pool.submit(
            neighbour.run, num_clients=num_clients, duration_s=plan.duration_s + 2 * LEAD_S
        )
        time.sleep(LEAD_S)
        seen = modest.run(num_clients=plan.clients, duration_s=plan.duration_s)
        found = Neighbours(modest=_client_run(seen), neighbour=_client_run(beside.result()))
    settle(server)
    return found


def _client_run(seen: LoadResult) -> ClientRun:
    return ClientRun(
        requests=seen.requests,
        throughput=seen.throughput,
        p50_ms=seen.p50_ms,
        p99_ms=seen.p99_ms,
    )
