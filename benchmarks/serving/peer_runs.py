"""Which peers, variants and cells are measured, within bounds of time."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import metadata
from itertools import product
from typing import Any, cast

from rich.console import Console

from benchmarks.serving.errors import BenchmarkError
from benchmarks.serving.load import Load
from benchmarks.serving.measuring import measure
from benchmarks.serving.peer_catalogue import PEERS, PEERS_PYTHON, Peer
from benchmarks.serving.peer_servers.job import Variant
from benchmarks.serving.peers import Arena, check_equal, measure_cell, running_peer
from benchmarks.serving.records import (
    Backbone,
    PeerCell,
    PeerRecord,
    PeerSetup,
    ServerRun,
    TuningRecord,
)
from benchmarks.serving.server import RunningServer, running_service

TUNING_TENANTS = 8
TUNING_CLIENTS = 64


@dataclass(frozen=True)
class PeerPlan:
    """How many cells, and how long each.

    Attributes:
        tenants: Numbers of tenants.
        clients: Requests in flight.
        rounds: Interleaved pairs of runs a cell.
        duration_s: Seconds of each run.
    """

    tenants: tuple[int, ...] = (1, 8, 64)
    clients: tuple[int, ...] = (1, 16, 64)
    rounds: int = 2
    duration_s: float = 5.0


QUICK_PLAN = PeerPlan(tenants=(8,), clients=(1, 64), duration_s=1.0)


@dataclass(frozen=True)
class Unit:
    """What one start of a peer measures.

    Attributes:
        peer: Key of `PEERS`.
        variant: How it batches.
        resident: Tenants that it holds; in "a", which are asked are all of them.
    """

    peer: str
    variant: Variant
    resident: int

    def tenants(self, plan: PeerPlan) -> tuple[int, ...]:
        """Return the numbers of tenants of its cells."""
        return (self.resident,) if self.variant == "a" else plan.tenants


def units_of(peers: Iterable[str], variants: Sequence[str], plan: PeerPlan) -> list[Unit]:
    """Return the starts of the peers: in variant "a" each number of tenants needs its own."""
    units: list[Unit] = []
    for peer in peers:
        chosen: list[Variant] = [each for each in ("b", "c") if each in variants]
        units += [Unit(peer, variant, max(plan.tenants)) for variant in chosen]
        if "a" in variants:
            units += [Unit(peer, "a", number) for number in plan.tenants]
    return units


def key_of(record: PeerRecord) -> tuple[Backbone, str, str, Unit]:
    """Return what tells a record from the others: backbone, device, picture, unit."""
    unit = Unit(record.peer, cast("Variant", record.variant), record.resident_tenants)
    return record.backbone, record.provenance.device, record.picture, unit


def is_whole(record: PeerRecord, plan: PeerPlan) -> bool:
    """Whether a record has all that the plan asks for, or says why it cannot be had."""
    *_, unit = key_of(record)
    long_enough = {
        (cell.tenants, cell.clients)
        for cell in record.cells
        if len(cell.ours) >= plan.rounds
        and all(round(run.duration_s) >= plan.duration_s for run in cell.ours)
    }
    wanted = product(unit.tenants(plan), plan.clients)
    return record.failure is not None or long_enough.issuperset(wanted)


def tried_setups(
    peer: str, backbone: Backbone, device: str, tuning: Sequence[TuningRecord]
) -> list[TuningRecord]:
    """Return what has been tried of a peer with this backbone and precision on this device."""
    of_peer = [r for r in tuning if r.peer == peer]
    return [r for r in of_peer if (r.backbone, r.provenance.device) == (backbone, device)]


def best_setup(tried: Sequence[TuningRecord], peer: str, device: str) -> PeerSetup:
    """Return the fastest configuration that was tried, the first of the list before that."""
    known = PEERS[peer].setups(device)
    runs = [r for r in tried if r.run is not None and r.setup in known]
    if not runs:
        return known[0]
    return max(runs, key=lambda r: 0.0 if r.run is None else r.run.throughput).setup


def measure_unit(
    arena: Arena, unit: Unit, plan: PeerPlan, setup: PeerSetup, console: Console
) -> PeerRecord:
    """Start ours and the peer, check that they agree, and measure the cells.

    A peer that cannot do it is a result too: its record says why.
    """
    peer = PEERS[unit.peer]
    if unit.variant == "a" and unit.resident > 1:
        setup = setup.model_copy(update={"workers": 1, "threads": 1})
    console.print(f"{peer.name}, variant {unit.variant}, {unit.resident} tenants")
    found: dict[str, Any] = {}
    cells: list[PeerCell] = []
    try:
        with ExitStack() as stack:
            ours = stack.enter_context(
                running_service(arena.tenants, arena.measured.environment, arena.scratch)
            )
            theirs = stack.enter_context(
                running_peer(arena, peer, unit.variant, unit.resident, setup)
            )
            found["start_s"] = theirs.start_s
            found["max_difference"] = check_equal(
                arena, ours, theirs, peer, unit.variant, unit.resident
            )
            for tenants in unit.tenants(plan):
                for clients in plan.clients:
                    cell = measure_cell(
                        arena,
                        ours,
                        theirs,
                        peer,
                        unit.variant,
                        tenants=tenants,
                        clients=clients,
                        rounds=plan.rounds,
                        duration_s=plan.duration_s,
                    )
                    cells.append(cell)
            found["memory_bytes"] = theirs.processes.memory_bytes()
            found["our_memory_bytes"] = ours.processes.memory_bytes()
    except BenchmarkError as error:
        found["failure"] = f"{type(error).__name__}: {error}"
        console.print(found["failure"])
    return PeerRecord(
        provenance=arena.measured.provenance(),
        backbone=arena.measured.record,
        picture=arena.picture,
        peer=unit.peer,
        version=peer_version(peer.package),
        variant=unit.variant,
        resident_tenants=unit.resident,
        setup=setup,
        cells=tuple(cells),
        **found,
    )


def tune(
    arena: Arena,
    name: str,
    duration_s: float,
    add: Callable[[TuningRecord], None],
    *,
    skip: Sequence[PeerSetup] = (),
) -> None:
    """Try the configurations of a peer in variant "c", at full load; one record each."""
    setups = PEERS[name].setups(arena.measured.device)
    for setup in (each for each in setups if each not in skip):
        found: dict[str, Any] = {}
        try:
            with running_peer(arena, PEERS[name], "c", TUNING_TENANTS, setup) as server:
                found["run"] = _full_load(arena, PEERS[name], server, duration_s)
        except BenchmarkError as error:
            found["failure"] = f"{type(error).__name__}: {error}"
        add(
            TuningRecord(
                provenance=arena.measured.provenance(),
                backbone=arena.measured.record,
                peer=name,
                setup=setup,
                **found,
            )
        )


def _full_load(arena: Arena, peer: Peer, server: RunningServer, duration_s: float) -> ServerRun:
    requests = peer.requests("c", TUNING_TENANTS, arena.pictures)
    load = Load(server.url, requests, arena.scratch, "tuning")
    load.warm_up(num_clients=TUNING_CLIENTS, duration_s=duration_s)
    return measure(server, load, num_clients=TUNING_CLIENTS, duration_s=2 * duration_s)


def peer_version(package: str) -> str:
    """Return the version of a package in the peers' environment; "missing" without it."""
    folders = [str(path) for path in PEERS_PYTHON.parents[1].glob("lib/python*/site-packages")]
    found = [each.version for each in metadata.distributions(name=package, path=folders)]
    return found[0] if found else "missing"
