"""Build labelled image tasks: `python -m benchmarks.tasks --out DIR [--task NAME ...]`."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from rich.progress import track

from benchmarks.tasks.catalogue import NAMES, build_task
from benchmarks.tasks.examples import MAX_POOL_IMAGES


def main(arguments: Sequence[str] | None = None) -> None:
    """Write `<out>/<task>/pool.zip`, `test.zip` and `counts.json` for every chosen task."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tasks", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the tasks")
    parser.add_argument("--task", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument(
        "--cache", type=Path, default=Path("data/packages"), help="folder for the packages"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--max-pool-images",
        type=_positive,
        default=MAX_POOL_IMAGES,
        help=f"images of a pool at most (default: {MAX_POOL_IMAGES})",
    )
    chosen = parser.parse_args(arguments)
    recipe = {"seed": chosen.seed, "max_pool_images": chosen.max_pool_images}
    for name in track(chosen.task, description="Building tasks"):
        counts = build_task(name, chosen.out, cache=chosen.cache.resolve(), **recipe)
        record = json.dumps(recipe | counts, indent=2)
        (chosen.out / name / "counts.json").write_text(record + "\n")
        totals = {half: sum(by_class.values()) for half, by_class in counts.items()}
        print(
            f"{name}: {totals['pool']} pool, {totals['test']} test, {len(counts['pool'])} classes"
        )


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is below 1")
    return value


if __name__ == "__main__":
    main()
