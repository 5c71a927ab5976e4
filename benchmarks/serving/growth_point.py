"""One point of a growth curve, in a process of its own so that its memory is its own.

`python -m benchmarks.serving.growth_point CURVE X` prints it as JSON; the backbone is the one that
the environment names.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from backbones.info import LoadedBackbone
from backbones.settings import BackboneSettings
from benchmarks.serving.tenants import NUM_CLASSES, make_artifact
from ensemble.fitting import fit_ensemble
from ensemble.prompt_tuning import LabelledPixels
from service.inference.backbone_pass import EagerPass
from service.inference.bank import ArtifactBank, BankEntry
from service.inference.forward import Forward
from service.inference.heads import class_probabilities
from service.inference.host_artifact import host_artifact
from service.inference.rows import Row

BATCH_SIZE = 32
REPEATS = 8
FIT_SOURCES = 4
FIT_IMAGES = 100

Point = dict[str, float]


def tenants(loaded: LoadedBackbone, count: int) -> Point:
    """One batch whose rows belong to random ones of `count` resident artifacts."""
    before = _memory_bytes()
    entries = _filled(loaded, count, num_classes=NUM_CLASSES)
    rng = np.random.default_rng(0)
    pixels = _pixels(loaded, BATCH_SIZE).cpu().numpy()
    forward = Forward(EagerPass(loaded.vit))

    def batch() -> None:
        chosen = [entries[i] for i in rng.integers(0, count, BATCH_SIZE)]
        forward(
            [Row(p, e, float("inf"), 0.0, e.digest) for p, e in zip(pixels, chosen, strict=True)]
        )

    return {**_timed(batch, BATCH_SIZE), "memory_bytes": _grown_bytes(before)}


def classes(loaded: LoadedBackbone, count: int) -> Point:
    """The heads of one batch, `count` classes each."""
    before = _memory_bytes()
    entries = _filled(loaded, 8, num_classes=count)
    rows = [entries[i % len(entries)] for i in range(BATCH_SIZE)]
    features = torch.randn(BATCH_SIZE, loaded.info.embed_dim, device=loaded.vit.device)
    point = _timed(lambda: class_probabilities(features, rows), BATCH_SIZE)
    return {**point, "memory_bytes": _grown_bytes(before)}


def batch(loaded: LoadedBackbone, size: int) -> Point:
    """One forward pass of `size` images under one prompt."""
    before = _memory_bytes()
    pixels = _pixels(loaded, size)
    prompt = torch.from_numpy(make_artifact(loaded.info, 0).prompt_embeddings)
    prompt = prompt.to(loaded.vit.device)
    point = _timed(lambda: loaded.vit(pixels, prompt), size)
    return {**point, "memory_bytes": _grown_bytes(before)}


def fit_images(loaded: LoadedBackbone, count: int) -> Point:
    """A fit without tuning on `count` images with a few sources."""
    return _fit(loaded, FIT_SOURCES, count)


def fit_sources(loaded: LoadedBackbone, count: int) -> Point:
    """A fit without tuning with `count` sources on a few images."""
    return _fit(loaded, count, FIT_IMAGES)


CURVES: dict[str, Callable[[LoadedBackbone, int], Point]] = {
    "tenants": tenants,
    "classes": classes,
    "batch": batch,
    "fit_images": fit_images,
    "fit_sources": fit_sources,
}


def _filled(loaded: LoadedBackbone, count: int, *, num_classes: int) -> list[BankEntry]:
    bank = ArtifactBank(loaded.vit.device)
    artifacts = (make_artifact(loaded.info, i, num_classes=num_classes) for i in range(count))
    return [
        bank.insert(host_artifact(f"sha256:{i:064x}", each)) for i, each in enumerate(artifacts)
    ]


def _fit(loaded: LoadedBackbone, num_sources: int, num_images: int) -> Point:
    artifacts = [make_artifact(loaded.info, seed) for seed in range(num_sources)]
    device = loaded.vit.device
    prompts = [torch.from_numpy(each.prompt_embeddings).to(device) for each in artifacts]
    labels = torch.arange(num_images) % NUM_CLASSES
    images = LabelledPixels(_pixels(loaded, num_images).cpu(), labels)
    before = _memory_bytes()
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    fit_ensemble(loaded.vit, prompts, images, num_classes=NUM_CLASSES)
    return {
        "seconds": time.perf_counter() - wall_s,
        "cpu_s": time.process_time() - cpu_s,
        "memory_bytes": _grown_bytes(before),
    }


def _timed(call: Callable[[], object], images_per_call: int) -> Point:
    """Median seconds and processor seconds for one image."""
    wall_s: list[float] = []
    with torch.inference_mode():
        call()
        cpu_s = time.process_time()
        for _ in range(REPEATS):
            start_s = time.perf_counter()
            call()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            wall_s.append(time.perf_counter() - start_s)
    cpu_s = (time.process_time() - cpu_s) / REPEATS
    median_s = sorted(wall_s)[REPEATS // 2]
    return {"seconds": median_s / images_per_call, "cpu_s": cpu_s / images_per_call}


def _pixels(loaded: LoadedBackbone, count: int) -> torch.Tensor:
    side = loaded.info.image_size_px
    generator = torch.Generator().manual_seed(0)
    values = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)
    return values.to(loaded.vit.device)


def _memory_bytes() -> int:
    """Memory of this process now; the peak counts from here."""
    Path("/proc/self/clear_refs").write_text("5")  # see proc(5)
    return _status_bytes("VmRSS")


def _grown_bytes(before: int) -> int:
    """What the peak is above an earlier `_memory_bytes`."""
    return max(0, _status_bytes("VmHWM") - before)


def _status_bytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    (value,) = [line.split()[1] for line in lines if line.startswith(f"{field}:")]
    return 1024 * int(value)


def main() -> int:
    """Print one point."""
    parser = argparse.ArgumentParser(prog="benchmarks.serving.growth_point", description=__doc__)
    parser.add_argument("curve", choices=tuple(CURVES))
    parser.add_argument("x", type=int)
    args = parser.parse_args()
    print(json.dumps(CURVES[args.curve](BackboneSettings().load(), args.x)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
