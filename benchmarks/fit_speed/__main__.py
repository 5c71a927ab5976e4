"""Measure a fit without tuning against its floor of M * N bare forward passes.

`make bench-fit` runs it. Floor and fit are interleaved in one process, because absolute times on
a shared CPU drift; the ratio of each pair is what is reported, with the median and the range.
The source prompts are random, which changes nothing about the time of a forward pass; labels are
random too, so the weights have no easy optimum.
"""

import argparse
import json
import platform
import statistics
import sys
import time
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


def bare_forwards_s(vit: PromptedViT, prompts: list[Tensor], pixels: Tensor) -> float:
    """Seconds for every prompt's forward pass over all images, nothing else."""
    started = time.perf_counter()
    with torch.no_grad():
        for prompt in prompts:
            for batch in pixels.split(BATCH_SIZE):
                vit(batch, prompt)
    if vit.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def fit_s(
    vit: PromptedViT, prompts: list[Tensor], images: LabelledPixels, num_classes: int
) -> tuple[float, dict[str, float]]:
    """Seconds for a whole fit without tuning, and those of its stages."""
    started = time.perf_counter()
    found = fit_ensemble(vit, prompts, images, num_classes=num_classes)
    return time.perf_counter() - started, found.timings_s


def main() -> int:
    """Print and optionally store the measurements."""
    parser = argparse.ArgumentParser(prog="benchmarks.fit_speed", description=__doc__)
    parser.add_argument("--sources", type=int, default=8, help="M")
    parser.add_argument("--images", type=int, default=300, help="N")
    parser.add_argument("--classes", type=int, default=10, help="C")
    parser.add_argument("--rounds", type=int, default=5, help="pairs of floor and fit")
    parser.add_argument("--json", type=Path, help="file for the measurements")
    args = parser.parse_args()
    backbone = BackboneSettings().load()
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
    bare_forwards_s(vit, prompts[:1], pixels)  # warm up
    rounds: list[dict[str, Any]] = []
    for _ in track(range(args.rounds), description="measuring"):
        floor_s = bare_forwards_s(vit, prompts, pixels.to(vit.device))
        total_s, stages_s = fit_s(vit, prompts, images, args.classes)
        rounds.append({"floor_s": floor_s, "fit_s": total_s, "stages_s": stages_s})
    ratios = [r["fit_s"] / r["floor_s"] for r in rounds]
    shares = [r["stages_s"]["weights"] / r["fit_s"] for r in rounds]
    report = {
        "sources": args.sources,
        "images": args.images,
        "backbone": info.name,
        "precision": info.dtype,
        "device": str(vit.device),
        "threads": torch.get_num_threads(),
        "machine": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "ratio_median": statistics.median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
        "weights_share_median": statistics.median(shares),
        "rounds": rounds,
    }
    print(
        f"fit / bare forwards: median {report['ratio_median']:.3f} of {len(ratios)} rounds, ",
        end="",
    )
    print(f"range {min(ratios):.3f} to {max(ratios):.3f}; solving for the weights: ", end="")
    print(f"{report['weights_share_median']:.1%} of the fit")
    if args.json is not None:
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
