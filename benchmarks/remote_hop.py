"""What it costs an image that its engine is in another process.

`python -m benchmarks.remote_hop` runs the same engine twice, in this process and in one of its own,
and asks both in turn, one image at a time. Settings as for the service: HGPROMPT_BACKBONE, ….
"""

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import uvloop
from prometheus_client import CollectorRegistry

from backbones.settings import BackboneSettings
from jobs.ensembles import EnsembleStore
from jobs.settings import DeploymentSettings
from prompt_store.artifacts import Artifact, artifact_metadata, write_artifact
from prompt_store.blobs import BlobStore
from prompt_store.clock import utc_now
from prompt_store.objects import open_object_store
from service.inference.assembly import running_engine
from service.inference.engine_client import EngineClient
from service.inference.remote.arena import PixelArena
from service.inference.remote.client import RemoteEngine
from service.metrics.inference import InferenceMetrics
from service.processes.assignment import ENGINE, ENGINE_SOCKET, Assignment
from service.settings import ServiceSettings

WARM_UP = 20
DEADLINE_S = 60.0


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--images", type=int, default=20, help="per round and engine")
    arguments = parser.parse_args()
    uvloop.run(measure(arguments.rounds, arguments.images))


async def measure(num_rounds: int, num_images: int) -> None:
    """Ask both engines in turn, `num_rounds` times `num_images` each."""
    loaded, settings = BackboneSettings().load(), ServiceSettings()
    objects = open_object_store(DeploymentSettings().store_url)
    blobs = BlobStore(objects)
    ensembles = EnsembleStore(objects, blobs, utc_now)
    info = loaded.info
    digest = blobs.put_bytes(write_artifact(_artifact(info.embed_dim, info.digest)))
    side = info.image_size_px
    pixels = np.random.default_rng(0).integers(0, 256, (3, side, side), dtype=np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        child = _start_engine(folder)
        path = Path(folder) / ENGINE_SOCKET
        remote = RemoteEngine(path, name="bench", num_slots=64, on_pace=_ignore)
        connecting = asyncio.create_task(remote.keep_connected(info))
        await remote.wait_connected()
        async with running_engine(
            loaded, blobs, ensembles, settings, InferenceMetrics(CollectorRegistry()), _ignore
        ) as running:
            found = await _compare(
                {"local": running.client, "remote": remote}, digest, pixels, num_rounds, num_images
            )
        connecting.cancel()
        child.terminate()
        child.wait()
    local, remote_s = (statistics.median(found[name]) for name in ("local", "remote"))
    print(
        f"{datetime.now(UTC):%Y-%m-%d} {info.name} {side} px, {num_rounds * num_images} images each"
    )
    print(f"in this process   {1e3 * local:8.3f} ms an image (median)")
    print(f"in another one    {1e3 * remote_s:8.3f} ms, {1e6 * (remote_s - local):+.0f} µs")
    print(f"copy to the arena {1e6 * _copy_s(pixels):8.1f} µs of it")


async def _compare(
    engines: dict[str, EngineClient],
    digest: str,
    pixels: np.ndarray,
    num_rounds: int,
    num_images: int,
) -> dict[str, list[float]]:
    """Seconds of each image by engine, rounds interleaved."""
    found: dict[str, list[float]] = {name: [] for name in engines}
    for engine in engines.values():
        await _times(engine, digest, pixels, WARM_UP)
    for _ in range(num_rounds):
        for name, engine in engines.items():
            found[name] += await _times(engine, digest, pixels, num_images)
    return found


async def _times(engine: EngineClient, digest: str, pixels: np.ndarray, count: int) -> list[float]:
    times: list[float] = []
    for _ in range(count):
        started_s = time.perf_counter()
        await engine.compute(digest, [pixels], deadline_s=time.monotonic() + DEADLINE_S)
        times.append(time.perf_counter() - started_s)
    return times


def _start_engine(folder: str) -> subprocess.Popen[bytes]:
    _, pulse_fd = os.pipe()
    told = Assignment(ENGINE, folder, os.getpid(), pulse_fd, beat_s=1.0)
    argv = [sys.executable, "-m", "service.processes.engine", told.argument()]
    return subprocess.Popen(argv, pass_fds=(pulse_fd,))  # noqa: S603  our own program


def _ignore(*_: object) -> None:
    pass


def _copy_s(pixels: np.ndarray) -> float:
    arena = PixelArena(pixels.shape[1], 4)
    times: list[float] = []
    for _ in range(1000):
        started_s = time.perf_counter()
        rows = arena.put([pixels])
        times.append(time.perf_counter() - started_s)
        arena.free(rows or ())
    return statistics.median(times)


def _artifact(embed_dim: int, backbone_digest: str) -> Artifact:
    rng = np.random.default_rng(0)
    return Artifact(
        weights=np.zeros(0),
        prompt_embeddings=rng.standard_normal((1, 10, embed_dim)).astype(np.float32),
        head_weight=rng.standard_normal((10, embed_dim)).astype(np.float32),
        head_bias=np.zeros(10, np.float32),
        metadata=artifact_metadata(
            classes=[str(index) for index in range(10)],
            sources=[],
            backbone_digest=backbone_digest,
            lineage={},
        ),
    )


if __name__ == "__main__":
    main()
