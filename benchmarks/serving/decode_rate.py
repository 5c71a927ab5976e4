"""How many images a second all cores of this machine decode together, with nothing else to do.

`python -m benchmarks.serving.decode_rate` is a program of its own: its processes are forked, which
one that has a GPU's driver loaded should not do.
"""

import argparse
import multiprocessing
import os
import subprocess
import sys
import time

from pydantic import TypeAdapter

from benchmarks.serving.errors import BenchmarkError
from benchmarks.serving.pictures import Picture, load_pictures
from images.decoding import ImageLimits, decode_image
from images.preprocessing import Preprocessing, preprocess

_PREPROCESSING = TypeAdapter(Preprocessing)
LIMIT_S = 60.0


def decode_rate(picture: Picture, preprocessing: Preprocessing, *, duration_s: float) -> float:
    """Return images a second that all cores decode and resize.

    Args:
        picture: Which images.
        preprocessing: The backbone's transform.
        duration_s: How long to do so.

    Raises:
        BenchmarkError: The program failed.
    """
    program = [sys.executable, "-m", "benchmarks.serving.decode_rate", picture, str(duration_s)]
    done = subprocess.run(  # noqa: S603 - our own program
        [*program, _PREPROCESSING.dump_json(preprocessing).decode()],
        capture_output=True,
        text=True,
        timeout=duration_s + LIMIT_S,
        check=False,
    )
    if done.returncode:
        raise BenchmarkError(f"decode_rate failed with {done.returncode}: {done.stderr[-2000:]}")
    return float(done.stdout)


def _decode(
    pictures: list[bytes], preprocessing: Preprocessing, duration_s: float
) -> tuple[int, float]:
    """Decode for some seconds; the number of images, and how long it took."""
    count, start_s = 0, time.perf_counter()
    while (elapsed_s := time.perf_counter() - start_s) < duration_s:
        preprocess(decode_image(pictures[count % len(pictures)], ImageLimits()), preprocessing)
        count += 1
    return count, elapsed_s


def main() -> None:
    """Print images a second of all cores."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("picture")
    parser.add_argument("duration_s", type=float)
    parser.add_argument("preprocessing", type=_PREPROCESSING.validate_json)
    args = parser.parse_args()
    num_cores = os.cpu_count() or 1
    work = (load_pictures(args.picture), args.preprocessing, args.duration_s)
    with multiprocessing.get_context("fork").Pool(num_cores) as pool:
        found = pool.starmap(_decode, [work] * num_cores, chunksize=1)
    print(sum(count / elapsed_s for count, elapsed_s in found))


if __name__ == "__main__":
    main()
