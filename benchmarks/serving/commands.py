"""The commands and their arguments."""

import argparse
import tempfile
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from rich.console import Console

from benchmarks.serving.fairness import FairnessPlan, fairness_key, measure_fairness
from benchmarks.serving.growth import CURVES, growth_key, measure_growth
from benchmarks.serving.limit import NUM_CLIENTS, LimitPlan, measure_limit
from benchmarks.serving.peer_catalogue import PEERS
from benchmarks.serving.peer_runs import (
    QUICK_PLAN,
    TUNING_TENANTS,
    PeerPlan,
    best_setup,
    is_whole,
    key_of,
    measure_unit,
    tried_setups,
    tune,
    units_of,
)
from benchmarks.serving.peer_servers.job import VARIANTS
from benchmarks.serving.peers import Arena
from benchmarks.serving.pictures import Picture, load_pictures
from benchmarks.serving.provenance import LABELS, Measured
from benchmarks.serving.records import (
    FairnessRecord,
    GrowthRecord,
    LimitRecord,
    PeerRecord,
    TuningRecord,
)
from benchmarks.serving.results_file import ResultsFile
from benchmarks.serving.tenants import publish_tenants

Subparsers = Any  # argparse keeps the type to itself
Command = Callable[[argparse.Namespace], Sequence[Path]]

LIMIT_UNITS: tuple[tuple[str, str, Picture], ...] = (
    ("84px", "bf16", "png48"),
    ("84px", "fp32", "png48"),
    ("84px", "bf16", "jpeg59k"),
    ("84px", "fp32", "jpeg59k"),
    ("224px", "bf16", "png48"),
    ("224px", "bf16", "jpeg59k"),
    ("224px", "fp32", "png48"),
    ("224px", "fp32", "jpeg59k"),
)
GPU_LIMIT_UNITS: tuple[tuple[str, str, Picture], ...] = (
    ("vit-b16", "bf16", "png48"),
    ("vit-b16", "bf16", "jpeg59k"),
)
"""Measured beside the others when they are asked for by name: a CPU takes a second an image."""


def add_commands(commands: Subparsers, results: Path) -> None:
    """Add every command to the parser; `results` is where they write by default."""
    _add_limit(_parser(commands, "limit", results, _limit))
    _add_peers(_parser(commands, "peers", results, _peers))
    _add_tune(_parser(commands, "tune", results, _tune))
    _add_one(_parser(commands, "fairness", results, _fairness))
    _add_growth(_parser(commands, "growth", results, _growth))
    _parser(commands, "report", results, _report)


def _parser(
    commands: Subparsers, name: str, results: Path, command: Command
) -> argparse.ArgumentParser:
    """A command with the arguments that all have."""
    parser: argparse.ArgumentParser = commands.add_parser(name)
    parser.set_defaults(command=command)
    parser.add_argument("--out", type=Path, default=results, help="folder of the results")
    parser.add_argument(
        "--store",
        type=Path,
        default=Path(tempfile.gettempdir()) / "hgprompt-bench-store",
        help="folder for published tenants, kept between runs",
    )
    parser.add_argument("--fresh", action="store_true", help="measure again what is there")
    parser.add_argument("--quick", action="store_true", help="short: to see that it works")
    return parser


def _add_limit(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--backbone", nargs="+", help=f"of {', '.join(LABELS)} (default: all but vit-b16)")
    add("--precision", nargs="+", help="of fp32, bf16 (default: both)")
    add("--picture", nargs="+", choices=get_args(Picture), help="(default: all)")
    add("--tenants", type=int, default=1000)
    add("--clients", type=int, default=NUM_CLIENTS, help=f"in flight (default: {NUM_CLIENTS})")
    add("--rounds", type=int, default=5)
    add(
        "--duration-s",
        type=float,
        default=LimitPlan.http_s,
        help=f"of a load, half as many of the bare loop (default: {LimitPlan.http_s:g}); "
        "longer where few images a second make it coarse",
    )


def _limit(args: argparse.Namespace) -> Sequence[Path]:
    results = ResultsFile(args.out / "limit.jsonl")
    plan = LimitPlan(
        num_tenants=args.tenants,
        num_clients=args.clients,
        rounds=args.rounds,
        bare_s=args.duration_s / 2,
        http_s=args.duration_s,
    )
    if args.quick:
        plan = replace(plan, rounds=2, bare_s=1.0, http_s=1.0)
    done = {
        (r.backbone.label, r.backbone.precision, r.picture)
        for r in results.read(LimitRecord)
        if not args.fresh
    }
    units = LIMIT_UNITS if args.backbone is None else LIMIT_UNITS + GPU_LIMIT_UNITS
    for label, precision, picture in units:
        wanted = _chosen(args.backbone, label) and _chosen(args.precision, precision)
        unit = (label, precision, picture)
        if wanted and _chosen(args.picture, picture) and unit not in done:
            with tempfile.TemporaryDirectory() as scratch:
                measured = Measured(label, precision)
                found = measure_limit(measured, picture, plan, args.store, Path(scratch))
            results.add(found)
    return _report(args)


def _add_tune(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--peer", nargs="+", choices=tuple(PEERS), default=tuple(PEERS))
    add("--duration-s", type=int, help=f"of a run (default: {PeerPlan.duration_s:g})")
    _add_one(parser)


def _add_peers(parser: argparse.ArgumentParser) -> None:
    _add_tune(parser)
    add = parser.add_argument
    add("--variant", nargs="+", choices=tuple(VARIANTS), default=tuple(VARIANTS))
    add("--tenants", type=int, nargs="+", help="(default: 1 8 64)")
    add("--clients", type=int, nargs="+", help="in flight (default: 1 16 64)")
    add("--rounds", type=int, help=f"(default: {PeerPlan.rounds})")


def _add_one(parser: argparse.ArgumentParser) -> None:
    """Arguments of commands that measure one backbone with one kind of image."""
    _add_backbone(parser)
    parser.add_argument("--picture", choices=get_args(Picture), default="png48")


def _add_backbone(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--backbone", default="84px", help=f"of {', '.join(LABELS)} (default: 84px)")
    add("--precision", default="bf16", help="fp32 or bf16 (default: bf16)")


def _peer_plan(args: argparse.Namespace) -> PeerPlan:
    """The usual plan or the short one, with what was chosen by arguments."""
    plan = QUICK_PLAN if args.quick else PeerPlan()
    return PeerPlan(
        tenants=tuple(args.tenants or plan.tenants),
        clients=tuple(args.clients or plan.clients),
        rounds=args.rounds or plan.rounds,
        duration_s=args.duration_s or plan.duration_s,
    )


@contextmanager
def _arena(args: argparse.Namespace, num_tenants: int) -> Generator[Arena]:
    measured = Measured(args.backbone, args.precision)
    with tempfile.TemporaryDirectory() as scratch:
        arena = Arena(
            measured=measured,
            picture=args.picture,
            pictures=load_pictures(args.picture),
            tenants=publish_tenants(measured.loaded.info, num_tenants, args.store),
            tenants_path=Path(scratch) / "tenants.safetensors",
            scratch=Path(scratch),
        )
        arena.write_tenants()
        yield arena


def _peers(args: argparse.Namespace) -> Sequence[Path]:
    plan = _peer_plan(args)
    results = ResultsFile(args.out / "peers.jsonl")
    tuning = ResultsFile(args.out / "tuning.jsonl").read(TuningRecord)
    records = [] if args.fresh else results.read(PeerRecord)
    done = {key_of(record) for record in records if is_whole(record, plan)}
    with _arena(args, max(plan.tenants)) as arena:
        backbone, device = arena.measured.record, arena.measured.device
        for unit in units_of(args.peer, args.variant, plan):
            if (backbone, device, args.picture, unit) not in done:
                tried = tried_setups(unit.peer, backbone, device, tuning)
                setup = best_setup(tried, unit.peer, device)
                results.add(measure_unit(arena, unit, plan, setup, Console(stderr=True)))
    return _report(args)


def _tune(args: argparse.Namespace) -> Sequence[Path]:
    results = ResultsFile(args.out / "tuning.jsonl")
    usual = QUICK_PLAN if args.quick else PeerPlan()
    duration_s = args.duration_s or usual.duration_s
    with _arena(args, TUNING_TENANTS) as arena:
        backbone, device = arena.measured.record, arena.measured.device
        for name in args.peer:
            tried = tried_setups(name, backbone, device, results.read(TuningRecord))
            done = () if args.fresh else [r.setup for r in tried]
            tune(arena, name, duration_s, results.add, skip=done)
    return _report(args)


def _fairness(args: argparse.Namespace) -> Sequence[Path]:
    results = ResultsFile(args.out / "fairness.jsonl")
    unit = (args.backbone, args.precision, args.picture)
    done = {fairness_key(r) for r in results.read(FairnessRecord) if not args.fresh}
    if unit not in done:
        plan = FairnessPlan(rounds=2, duration_s=2.0) if args.quick else FairnessPlan()
        with tempfile.TemporaryDirectory() as scratch:
            measured = Measured(args.backbone, args.precision)
            found = measure_fairness(measured, args.picture, plan, args.store, Path(scratch))
        results.add(found)
    return _report(args)


def _add_growth(parser: argparse.ArgumentParser) -> None:
    _add_backbone(parser)
    parser.add_argument("--curve", nargs="+", choices=tuple(CURVES), default=tuple(CURVES))


def _growth(args: argparse.Namespace) -> Sequence[Path]:
    results = ResultsFile(args.out / "growth.jsonl")
    measured = Measured(args.backbone, args.precision)
    done = {key for r in results.read(GrowthRecord) if not args.fresh for key in growth_key(r)}
    for curve in args.curve:
        if (args.backbone, args.precision, curve) not in done:
            results.add(measure_growth(measured, curve, quick=args.quick))
    return _report(args)


def _chosen(wanted: Sequence[str] | None, value: str) -> bool:
    return wanted is None or value in wanted


def _report(args: argparse.Namespace) -> Sequence[Path]:
    # Only here, so that measuring needs no plotting library.
    from benchmarks.serving.report import write_reports  # noqa: PLC0415

    return write_reports(args.out)
