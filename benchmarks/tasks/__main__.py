"""Build labelled image tasks: `python -m benchmarks.tasks --out DIR [--task NAME ...]`."""

import argparse
import json
import zlib
from pathlib import Path

import numpy as np
from rich.progress import track

from benchmarks.tasks.catalogue import TASKS
from benchmarks.tasks.examples import write_task


def main() -> None:
    """Write `<out>/<task>/pool.zip`, `test.zip` and `counts.json` for every chosen task."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tasks", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the tasks")
    parser.add_argument("--task", nargs="+", choices=sorted(TASKS), default=sorted(TASKS))
    parser.add_argument(
        "--cache", type=Path, default=Path("data/packages"), help="folder for the packages"
    )
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    cache = chosen.cache.resolve()
    for name in track(chosen.task, description="Building tasks"):
        # The name is part of the seed: a task comes out the same alone or among others.
        rng = np.random.default_rng((chosen.seed, zlib.crc32(name.encode())))
        counts = write_task(TASKS[name](cache, rng), chosen.out / name, rng)
        (chosen.out / name / "counts.json").write_text(json.dumps(counts, indent=2) + "\n")
        totals = {half: sum(by_class.values()) for half, by_class in counts.items()}
        print(
            f"{name}: {totals['pool']} pool, {totals['test']} test, {len(counts['pool'])} classes"
        )


if __name__ == "__main__":
    main()
