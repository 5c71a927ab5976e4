"""Cut an example task out of a built one: 300 images to learn from, 300 to be judged on.

    python -m benchmarks.tasks --out TASKS --task NAME
    python examples/tasks/subset.py TASKS/NAME examples/tasks/NAME

Classes keep their shares; the images are drawn with a fixed seed and stored unchanged, so the same
command gives the same bytes.
"""

import argparse
import random
import zipfile
from pathlib import Path, PurePosixPath

EPOCH = (1980, 1, 1, 0, 0, 0)


def main() -> None:
    """Write train.zip and test.zip."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, help="folder with pool.zip and test.zip")
    parser.add_argument("target", type=Path, help="folder for train.zip and test.zip")
    parser.add_argument("--images", type=int, default=300, help="images in each")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.target.mkdir(parents=True, exist_ok=True)
    for built, example in (("pool.zip", "train.zip"), ("test.zip", "test.zip")):
        rng = random.Random(args.seed)  # noqa: S311  a sample, no secret
        with zipfile.ZipFile(args.source / built) as archive:
            chosen = stratified(archive.namelist(), args.images, rng)
            with zipfile.ZipFile(args.target / example, "w", zipfile.ZIP_STORED) as subset:
                for name in chosen:
                    subset.writestr(zipfile.ZipInfo(name, EPOCH), archive.read(name))


def stratified(names: list[str], num_images: int, rng: random.Random) -> list[str]:
    """Draw about `num_images` of the entries `class/file`, each class by its share."""
    by_class: dict[str, list[str]] = {}
    for name in sorted(names):
        if not name.endswith("/"):
            by_class.setdefault(PurePosixPath(name).parent.name, []).append(name)
    share = min(1.0, num_images / sum(map(len, by_class.values())))
    drawn = [rng.sample(group, max(2, round(share * len(group)))) for group in by_class.values()]
    return sorted(name for group in drawn for name in group)


if __name__ == "__main__":
    main()
