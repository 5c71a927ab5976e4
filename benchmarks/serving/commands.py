"""The commands and their arguments."""

import argparse
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

from benchmarks.serving.limit import LimitPlan, measure_limit
from benchmarks.serving.pictures import Picture
from benchmarks.serving.provenance import LABELS, Measured
from benchmarks.serving.records import LimitRecord
from benchmarks.serving.results_file import ResultsFile

Subparsers = Any  # argparse keeps the type to itself
Command = Callable[[argparse.Namespace], Sequence[Path]]

LIMIT_UNITS: tuple[tuple[str, str, Picture], ...] = (
    ("84px", "bf16", "png48"),
    ("84px", "fp32", "png48"),
    ("84px", "bf16", "jpeg59k"),
    ("84px", "fp32", "jpeg59k"),
    ("224px", "bf16", "png48"),
    ("224px", "bf16", "jpeg59k"),
)


def add_commands(commands: Subparsers, results: Path) -> None:
    """Add every command to the parser; `results` is where they write by default."""
    _add_limit(_parser(commands, "limit", results, _limit))
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
    add("--backbone", nargs="+", help=f"of {', '.join(LABELS)} (default: all)")
    add("--precision", nargs="+", help="of fp32, bf16 (default: both)")
    add("--picture", nargs="+", choices=get_args(Picture), help="(default: all)")
    add("--tenants", type=int, default=1000)
    add("--rounds", type=int, default=5)


def _limit(args: argparse.Namespace) -> Sequence[Path]:
    results = ResultsFile(args.out / "limit.jsonl")
    plan = LimitPlan(num_tenants=args.tenants, rounds=args.rounds)
    if args.quick:
        plan = LimitPlan(num_tenants=args.tenants, rounds=2, bare_s=1.0, http_s=1.0)
    done = {
        (r.backbone.label, r.backbone.precision, r.picture)
        for r in results.read(LimitRecord)
        if not args.fresh
    }
    for label, precision, picture in LIMIT_UNITS:
        wanted = _chosen(args.backbone, label) and _chosen(args.precision, precision)
        unit = (label, precision, picture)
        if wanted and _chosen(args.picture, picture) and unit not in done:
            with tempfile.TemporaryDirectory() as scratch:
                measured = Measured(label, precision)
                found = measure_limit(measured, picture, plan, args.store, Path(scratch))
            results.add(found)
    return _report(args)


def _chosen(wanted: Sequence[str] | None, value: str) -> bool:
    return wanted is None or value in wanted


def _report(args: argparse.Namespace) -> Sequence[Path]:
    # Only here, so that measuring needs no plotting library.
    from benchmarks.serving.report import write_reports  # noqa: PLC0415

    return write_reports(args.out)
