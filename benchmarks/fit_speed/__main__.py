"""Measure a fit without tuning against its floor of M * N bare forward passes.

`make bench-fit` runs it. Floor and fit are interleaved in one process, because absolute times on
a shared CPU drift; the ratio of each pair is what is reported, with the median and the range.
On a CPU the process's own CPU time is given too: it does not count the time for which others had
the core. The source prompts are random, which changes nothing about the time of a forward pass;
labels are random too, so the weights have no easy optimum.

A backbone with random weights (`--backbone 'random:vit_base_patch16_224?img_size=48'`) takes as
long as a trained one. On smaller images a forward pass is cheaper and all else is not, so the
ratio is too high.
"""

import argparse
import json
import platform
import resource
import statistics
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from torch import Tensor

from backbones.settings import BackboneSettings
from ensemble.fit_session import BATCH_SIZE
from ensemble.fitting import fit_ensemble
from ensemble.prompt_tuning import LabelledPixels
from ensemble.prompted_vit import PromptedViT, init_prompt


@dataclass(frozen=True)
class Elapsed:
    """Wall-clock and process CPU seconds."""

    wall_s: float
    cpu_s: float


@contextmanager
def stopwatch(into: list[Elapsed], device: torch.device) -> Generator[None]:
    """Append the time of a `with` block."""
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    yield
    if device.type == "cuda":
        torch.cuda.synchronize()
    into.append(Elapsed(time.perf_counter() - wall_s, time.process_time() - cpu_s))


def bare_forwards(vit: PromptedViT, prompts: list[Tensor], pixels: Tensor) -> None:
    """Every prompt's forward pass over all images, nothing else."""
    with torch.no_grad():
        for prompt in prompts:
            for batch in pixels.split(BATCH_SIZE):
                vit(batch, prompt)


def peak_rss_mib() -> float:
    """The process's largest resident memory so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def spread(values: list[float]) -> dict[str, float]:
    """Smallest, median and largest."""
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def main() -> int:
    """Print and optionally store the measurements."""
    parser = argparse.ArgumentParser(prog="benchmarks.fit_speed", description=__doc__)
    parser.add_argument("--backbone", help="instead of HGPROMPT_BACKBONE")
    parser.add_argument("--sources", type=int, default=8, help="M")
    parser.add_argument("--images", type=int, default=300, help="N")
    parser.add_argument("--classes", type=int, default=10, help="C")
    parser.add_argument("--rounds", type=int, default=5, help="pairs of floor and fit")
    parser.add_argument("--json", type=Path, help="file for the measurements")
    args = parser.parse_args()
    chosen = {} if args.backbone is None else {"backbone": args.backbone}
    backbone = BackboneSettings(**chosen).load()
    vit, info = backbone.vit, backbone.info
    generator = torch.Generator().manual_seed(0)
    prompts = [
        init_prompt(
            info.depth, 10, info.embed_dim, patch_size_px=info.patch_size_px, generator=generator
        ).to(vit.device)
        for _ in range(args.sources)
    ]
    size = (args.images, 3, info.image_size_px, info.image_size_px)
    pixels = torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)
    labels = torch.arange(args.images) % args.classes
    images = LabelledPixels(pixels, labels)
    on_device = pixels.to(vit.device)
    bare_forwards(vit, prompts[:1], on_device)  # warm up
    before_mib = peak_rss_mib()
    floors: list[Elapsed] = []
    fits: list[Elapsed] = []
    stages_s: list[dict[str, float]] = []
    for _ in track(range(args.rounds), description="measuring"):
        with stopwatch(floors, vit.device):
            bare_forwards(vit, prompts, on_device)
        with stopwatch(fits, vit.device):
            found = fit_ensemble(vit, prompts, images, num_classes=args.classes)
        stages_s.append(found.timings_s)
    report: dict[str, Any] = {
        "sources": args.sources,
        "images": args.images,
        "classes": args.classes,
        "embed_dim": info.embed_dim,
        "image_size_px": info.image_size_px,
        "backbone": info.name,
        "precision": info.dtype,
        "device": str(vit.device),
        "threads": torch.get_num_threads(),
        "machine": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "wall_ratio": spread([f.wall_s / b.wall_s for f, b in zip(fits, floors, strict=True)]),
        "cpu_ratio": spread([f.cpu_s / b.cpu_s for f, b in zip(fits, floors, strict=True)]),
        "weights_share": spread(
            [s["weights"] / f.wall_s for s, f in zip(stages_s, fits, strict=True)]
        ),
        "peak_rss_mib": {"before": before_mib, "after": peak_rss_mib()},
        "rounds": [
            {"floor": asdict(floor), "fit": asdict(fit), "stages_s": stages}
            for floor, fit, stages in zip(floors, fits, stages_s, strict=True)
        ],
    }
    for name in ("wall_ratio", "cpu_ratio", "weights_share"):
        low, median, high = (report[name][key] for key in ("min", "median", "max"))
        print(f"{name}: median {median:.3f} of {args.rounds} rounds, {low:.3f} to {high:.3f}")
    peak_mib = report["peak_rss_mib"]
    print(f"peak memory: {peak_mib['after']:.0f} MiB, before the fits {peak_mib['before']:.0f} MiB")
    if args.json is not None:
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
