"""The service against the bare loop: how much of the backbone's rate arrives at the client."""

from dataclasses import dataclass
from pathlib import Path

from rich.progress import track

from benchmarks.serving.bare import BareLoop
from benchmarks.serving.decode_rate import decode_rate
from benchmarks.serving.load import Load
from benchmarks.serving.measuring import measure
from benchmarks.serving.our_requests import classify_requests
from benchmarks.serving.pictures import Picture, load_pictures
from benchmarks.serving.provenance import Measured
from benchmarks.serving.records import LimitRecord, LimitRound, SingleRun
from benchmarks.serving.server import RunningServer, running_service
from benchmarks.serving.tenants import Tenants, publish_tenants

NUM_CLIENTS = 64
WARM_UP_S = 4  # longer than two batches of the slowest backbone take


@dataclass(frozen=True)
class LimitPlan:
    """How long and how wide.

    Attributes:
        num_tenants: Artifacts behind the load on many tenants.
        num_clients: Requests in flight under load.
        rounds: Interleaved rounds.
        bare_s: Seconds of the bare loop a round.
        http_s: Seconds of each load a round.
    """

    num_tenants: int = 1000
    num_clients: int = NUM_CLIENTS
    rounds: int = 5
    bare_s: float = 2.0
    http_s: float = 4.0


def measure_limit(
    measured: Measured, picture: Picture, plan: LimitPlan, store: Path, scratch: Path
) -> LimitRecord:
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
    tenants = publish_tenants(measured.loaded.info, plan.num_tenants, store)
    bare = BareLoop(measured.loaded, pictures)
    best, rates = bare.best_batch_size(duration_s=plan.bare_s / 2)
    decoded = None
    if measured.device == "cuda":
        preprocessing = measured.loaded.info.preprocessing
        decoded = decode_rate(picture, preprocessing, duration_s=plan.bare_s)
    with running_service(tenants, measured.environment, scratch) as server:
        one, many = _loads(server, tenants, pictures, scratch)
        _warm_up(many, plan)
        rounds = [
            _round(server, bare, best, one, many, plan)
            for _ in track(range(plan.rounds), description=f"{measured.label} {picture}")
        ]
        return LimitRecord(
            provenance=measured.provenance(),
            backbone=measured.record,
            picture=picture,
            num_tenants=plan.num_tenants,
            num_clients=plan.num_clients,
            batch_rates=rates,
            best_batch_size=best,
            start_s=server.start_s,
            memory_bytes=server.processes.memory_bytes(),
            decode_rate=decoded,
            rounds=tuple(rounds),
        )


def _loads(
    server: RunningServer, tenants: Tenants, pictures: list[bytes], scratch: Path
) -> tuple[Load, Load]:
    """The load on the first tenant, and the load on all."""
    one = classify_requests(tenants.names[:1], pictures)
    many = classify_requests(tenants.names, pictures)
    return Load(server.url, one, scratch, "one"), Load(server.url, many, scratch, "many")


def _warm_up(many: Load, plan: LimitPlan) -> None:
    """Send every prepared request once, so that every artifact is resident."""
    sent = 0
    while sent < plan.num_tenants:
        sent += many.run(num_clients=plan.num_clients, duration_s=WARM_UP_S).requests


def _round(
    server: RunningServer, bare: BareLoop, batch_size: int, one: Load, many: Load, plan: LimitPlan
) -> LimitRound:
    alone = bare.run(batch_size, duration_s=plan.bare_s)
    on_each_core = bare.run_on_each_core(duration_s=plan.bare_s)
    on_one = measure(server, one, num_clients=plan.num_clients, duration_s=plan.http_s)
    on_many = measure(server, many, num_clients=plan.num_clients, duration_s=plan.http_s)
    decode_ms, forward_ms = bare.single_ms(duration_s=plan.bare_s / 2)
    single = measure(server, one, num_clients=1, duration_s=plan.bare_s)
    return LimitRound(
        bare=alone,
        on_each_core=on_each_core,
        one=on_one,
        many=on_many,
        single=SingleRun(p50_ms=single.p50_ms, decode_ms=decode_ms, forward_ms=forward_ms),
    )
