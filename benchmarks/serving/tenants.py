"""Tenants: published artifacts of the backbone's shapes, random but for their seed."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from backbones.info import BackboneInfo
from jobs.ensembles import EnsembleStore
from jobs.records import FitResultDocs, FitSpec, SourceRef, TaskRef
from prompt_store.artifacts import Artifact, ArtifactSource, artifact_metadata, write_artifact
from prompt_store.blobs import BlobStore
from prompt_store.clock import utc_now
from prompt_store.objects import open_object_store

PROMPT_TOKENS = 10
NUM_CLASSES = 5
PROMPT_SCALE = 0.05
HEAD_SCALE = 0.1
PUBLISHING_THREADS = 8
_SOURCE_DIGEST = f"sha256:{'5' * 64}"
_TASK_DIGEST = f"sha256:{'7' * 64}"


@dataclass(frozen=True)
class Tenants:
    """Published tenants.

    Attributes:
        store_url: The object store that holds them.
        names: Their ensembles, in order of their seeds.
    """

    store_url: str
    names: tuple[str, ...]


def tenant_name(seed: int) -> str:
    """Return the ensemble's name."""
    return f"tenant-{seed:05d}"


def make_artifact(info: BackboneInfo, seed: int, *, num_classes: int = NUM_CLASSES) -> Artifact:
    """Return a random artifact with a deep prompt of `PROMPT_TOKENS` tokens."""
    rng = np.random.default_rng(seed)

    def normal(scale: float, *shape: int) -> np.ndarray:
        return (scale * rng.standard_normal(shape)).astype(np.float32)

    return Artifact(
        weights=np.array([1.0]),
        prompt_embeddings=normal(PROMPT_SCALE, info.depth, PROMPT_TOKENS, info.embed_dim),
        head_weight=normal(HEAD_SCALE, num_classes, info.embed_dim),
        head_bias=normal(HEAD_SCALE, num_classes),
        metadata=artifact_metadata(
            classes=[f"class-{i}" for i in range(num_classes)],
            sources=[ArtifactSource("source", 1, _SOURCE_DIGEST, 1.0)],
            backbone_digest=info.digest,
            lineage={"method": "random", "seed": str(seed)},
        ),
    )


def publish_tenants(info: BackboneInfo, count: int, folder: Path) -> Tenants:
    """Publish what is not yet there of `count` tenants, as a worker would.

    Args:
        info: Of the backbone they are for.
        count: Number of tenants.
        folder: A store; one that was filled for the same backbone is used again.
    """
    # Each backbone has its own store: names are the same, artifacts are not.
    path = folder / info.digest.removeprefix("sha256:")[:16]
    path.mkdir(parents=True, exist_ok=True)
    objects = open_object_store(path.as_uri())
    ensembles = EnsembleStore(objects, BlobStore(objects), utc_now)
    mark = path / "published.json"
    done = json.loads(mark.read_text()) if mark.exists() else 0
    with ThreadPoolExecutor(PUBLISHING_THREADS) as pool:
        list(pool.map(partial(_publish, ensembles, info), range(done, count)))
    if count > done:
        mark.write_text(json.dumps(count))
    return Tenants(path.as_uri(), tuple(tenant_name(seed) for seed in range(count)))


def _publish(ensembles: EnsembleStore, info: BackboneInfo, seed: int) -> None:
    request = ensembles.create(
        FitSpec(
            name=tenant_name(seed),
            task=TaskRef(name="task", version=1, digest=_TASK_DIGEST),
            sources=(SourceRef(name="source", version=1, digest=_SOURCE_DIGEST),),
            backbone_digest=info.digest,
        )
    )
    attempt = ensembles.claim_attempt(request.fit_id, "benchmark")
    docs = FitResultDocs(write_artifact(make_artifact(info, seed)), {})
    ensembles.publish_result(request.fit_id, attempt, docs)
