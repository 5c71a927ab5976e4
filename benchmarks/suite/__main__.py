"""`python -m benchmarks.suite run`, `report` and `archive`; see the README beside this file."""

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import ValidationError
from rich.console import Console
from rich.progress import track

from backbones.errors import BackboneError
from backbones.settings import BackboneSettings
from benchmarks.suite.cells import parse_shard
from benchmarks.suite.errors import SuiteError
from benchmarks.suite.request import Request
from benchmarks.suite.results_folder import ResultsFolder
from benchmarks.suite.runner import Runner
from benchmarks.suite.source_prompts import load_source_prompts
from benchmarks.suite.subsets import Shots
from benchmarks.suite.target_tasks import ArchiveTasks, TaskFolder
from benchmarks.suite.variants import ABLATIONS, METHODS, choose_variants
from benchmarks.suite.vtab import VtabTasks, write_pool_archive
from ensemble.errors import EnsembleError
from images.errors import ImagesError
from prompt_store.errors import PromptStoreError

MIN_SHOTS = 3
"""Of 2 images a class, `VALIDATION_FRACTION` is none: nothing could be held out."""

EXPECTED_ERRORS = (
    BackboneError,
    EnsembleError,
    ImagesError,
    PromptStoreError,
    SuiteError,
    ValidationError,
    OSError,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 1 when the input is at fault or a fit refused it, 130 on Ctrl-C."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    args = _parser().parse_args(arguments)
    try:
        return args.command(args, f"python -m benchmarks.suite {shlex.join(arguments)}")
    except EXPECTED_ERRORS as error:
        sys.stderr.write(f"benchmarks.suite: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; finished cells are kept, the same command goes on\n")
        return 130


def _run(args: argparse.Namespace, command: str) -> int:
    tasks: TaskFolder = ArchiveTasks(args.tasks) if args.tasks else VtabTasks(args.vtab)
    request = Request(
        tasks=tasks,
        targets=_targets(tasks, args.target, args.tasks or args.vtab),
        variants=tuple(choose_variants(args.method, args.tuning_epochs)),
        shots=tuple(dict.fromkeys(args.shots)),
        seeds=tuple(dict.fromkeys(args.seed)),
        num_sources=tuple(sorted(set(args.sources))),
        max_test_images=args.max_test_images,
        tuning_epochs=args.tuning_epochs,
        shard=parse_shard(args.shard),
        cache=args.cache or args.out / "cache",
        command=command,
    )
    backbone = BackboneSettings().load()
    prompts = load_source_prompts(args.prompts, backbone.info, tasks.names())
    runner = Runner(request, backbone, prompts, ResultsFolder(args.out), Console(stderr=True))
    return 1 if runner() else 0


def _report(args: argparse.Namespace, _command: str) -> int:
    # Only here, so that `run` needs no plotting library.
    from benchmarks.suite.report import write_report  # noqa: PLC0415

    out = args.out
    if out is None:
        if len(args.results) > 1:
            raise SuiteError("several --results need --out, the folder for their report")
        out = args.results[0]
    for path in write_report([ResultsFolder(path) for path in args.results], out):
        print(path)
    return 0


def _archive(args: argparse.Namespace, _command: str) -> int:
    for name in track(_targets(VtabTasks(args.vtab), args.target, args.vtab), "Writing pools"):
        path = args.out / name / "pool.zip"
        print(f"{path}: {write_pool_archive(args.vtab / name, path)} images")
    return 0


def _targets(tasks: TaskFolder, wanted: Sequence[str] | None, folder: Path) -> tuple[str, ...]:
    """The named tasks, or all."""
    names = tasks.names()
    if not names:
        raise SuiteError(f"{folder} holds no tasks")
    for name in wanted or ():
        if name not in names:
            raise SuiteError(f"target {name!r} is not one of {', '.join(names)}")
    return tuple(name for name in names if wanted is None or name in wanted)


def _shots(text: str) -> Shots:
    if text == "full":
        return "full"
    return _at_least(MIN_SHOTS)(text)


def _at_least(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"{value} is below {least}")
        return value

    return number


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.suite", description=__doc__)
    commands = parser.add_subparsers(required=True)
    _add_run(commands.add_parser("run", help="compute the cells that are not there yet"))
    report = commands.add_parser("report", help="write tables and plots of what is there")
    report.set_defaults(command=_report)
    report.add_argument(
        "--results", type=Path, nargs="+", required=True, help="the --out of `run`; several as one"
    )
    report.add_argument("--out", type=Path, help="folder for the report (default: --results)")
    archive = commands.add_parser("archive", help="VTAB-1k pools as archives for train-prompt")
    archive.set_defaults(command=_archive)
    archive.add_argument("--vtab", type=Path, required=True, help="VTAB-1k folder")
    archive.add_argument("--out", type=Path, required=True, help="folder for NAME/pool.zip")
    archive.add_argument("--target", nargs="+", help="data sets (default: all)")
    return parser


def _add_run(run: argparse.ArgumentParser) -> None:
    run.set_defaults(command=_run)
    add = run.add_argument
    tasks = run.add_mutually_exclusive_group(required=True)
    tasks.add_argument("--tasks", type=Path, help="folder of NAME/{pool,test}.zip")
    tasks.add_argument("--vtab", type=Path, help="VTAB-1k folder, instead of --tasks")
    add("--prompts", type=Path, required=True, help="folder of NAME.safetensors, the sources")
    add("--out", type=Path, required=True, help="folder for the results")
    add("--cache", type=Path, help="folder for features (default: cache in --out)")
    add("--target", nargs="+", help="target tasks (default: all)")
    add(
        "--method",
        nargs="+",
        metavar="METHOD",
        help=f"{', '.join(METHODS)}; ablations: {', '.join(ABLATIONS)} (default: all methods)",
    )
    add("--seed", nargs="+", type=_at_least(0), default=[0, 1, 2], help="(default: 0 1 2)")
    add("--sources", nargs="+", type=_at_least(1), default=[3, 5, 8, 11], help="values of M")
    add(
        "--shots",
        nargs="+",
        type=_shots,
        default=[10, 50, "full"],
        help=f"images a class, at least {MIN_SHOTS}, or full (default: 10 50 full)",
    )
    add("--tuning-epochs", type=_at_least(0), default=10, help="of every method that tunes")
    add("--max-test-images", type=_at_least(1), help="a random choice of them (default: all)")
    add("--shard", default="1/1", metavar="I/K", help="compute the I-th of K parts")


if __name__ == "__main__":
    sys.exit(main())
