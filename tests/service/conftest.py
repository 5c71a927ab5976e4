import io
import os
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from fastapi import FastAPI
from PIL import Image

from backbones.info import LoadedBackbone
from jobs.ensembles import EnsembleStore
from jobs.records import FitId, FitResultDocs, FitSpec, SourceRef, TaskRef
from jobs.settings import DeploymentSettings
from prompt_store.artifacts import Artifact, ArtifactSource, artifact_metadata, write_artifact
from prompt_store.codec import PromptFile, write_prompt
from service.main import build_app
from service.settings import ServiceSettings
from tests.damage import leave_half
from tests.faults.server import Server
from tests.tiny_backbone import load_tiny_backbone

SOURCE_DIGEST = f"sha256:{'5' * 64}"


@pytest.fixture(scope="session")
def loaded() -> LoadedBackbone:
    torch.set_num_threads(1)
    return load_tiny_backbone()


@pytest.fixture
def one_processor() -> Iterator[None]:
    """Let this process use only one of the machine's processors."""
    usual = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(usual)})
    yield
    os.sched_setaffinity(0, usual)


@pytest.fixture
def deployment(redis_url: str, store_url: str) -> DeploymentSettings:
    return DeploymentSettings(redis_url=redis_url, store_url=store_url)


Opener = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]


@pytest.fixture
def open_client(deployment: DeploymentSettings, loaded: LoadedBackbone, tmp_path: Path) -> Opener:
    """Run the real application in this process, with settings of the test's choice."""

    @asynccontextmanager
    async def open_(**settings: object) -> AsyncIterator[httpx.AsyncClient]:
        spool = tmp_path / "spool"
        spool.mkdir(exist_ok=True)
        usual = {"resolve_ttl_s": 0.0, "decode_threads": 2, "warm_up": False}
        chosen = {"upload_dir": spool, **usual, **settings}
        app = build_app(ServiceSettings.model_validate(chosen), deployment, loaded)
        async with app.router.lifespan_context(app), client_of(app) as client:
            yield client
        assert list(spool.iterdir()) == []  # nothing that was spooled is left behind

    return open_


def client_of(app: FastAPI) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=30)


@pytest.fixture
async def client(open_client: Opener) -> AsyncIterator[httpx.AsyncClient]:
    async with open_client() as client:
        yield client


@pytest.fixture
def make_prompt(loaded: LoadedBackbone) -> Callable[..., bytes]:
    def make(seed: int = 0, *, num_layers: int = 2, num_tokens: int = 3, **metadata: str) -> bytes:
        values = _normal(np.random.default_rng(seed), num_layers, num_tokens, loaded.info.embed_dim)
        found = {"backbone": "tiny", "backbone_digest": loaded.info.digest, **metadata}
        return write_prompt(PromptFile(prompt_embeddings=values, metadata=found))

    return make


@pytest.fixture
def make_task(image: Callable[..., bytes]) -> Callable[..., bytes]:
    def make(**images_of_class: int) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for label, count in (images_of_class or {"cat": 3, "dog": 4}).items():
                for i in range(count):
                    entry = zipfile.ZipInfo(f"{label}/{i}.png")
                    archive.writestr(entry, image(seed=i, size=(8, 8)))
        return buffer.getvalue()

    return make


@pytest.fixture
def make_artifact(loaded: LoadedBackbone) -> Callable[..., Artifact]:
    def make(
        seed: int = 0,
        *,
        num_layers: int = 2,
        num_tokens: int = 3,
        classes: Sequence[str] = ("cat", "dog", "owl"),
        backbone_digest: str | None = None,
    ) -> Artifact:
        rng = np.random.default_rng(seed)
        width = loaded.info.embed_dim
        return Artifact(
            weights=np.array([1.0]),
            prompt_embeddings=_normal(rng, num_layers, num_tokens, width),
            head_weight=_normal(rng, len(classes), width),
            head_bias=_normal(rng, len(classes)),
            metadata=artifact_metadata(
                classes=classes,
                sources=[ArtifactSource("digits", 1, SOURCE_DIGEST, 1.0)],
                backbone_digest=backbone_digest or loaded.info.digest,
                lineage={"method": "hgprompt", "seed": str(seed)},
            ),
        )

    return make


@pytest.fixture
def make_spec(loaded: LoadedBackbone) -> Callable[..., FitSpec]:
    def make(name: str, **fields: object) -> FitSpec:
        usual = {
            "task": TaskRef(name="animals", version=1, digest=f"sha256:{'7' * 64}"),
            "sources": (SourceRef(name="digits", version=1, digest=SOURCE_DIGEST),),
            "backbone_digest": loaded.info.digest,
        }
        return FitSpec.model_validate({"name": name, **usual, **fields})

    return make


@pytest.fixture
def publish(
    ensembles: EnsembleStore,
    make_artifact: Callable[..., Artifact],
    make_spec: Callable[..., FitSpec],
) -> Callable[..., tuple[FitId, str]]:
    """Record a fit that has succeeded, as a worker would."""

    def publish_(
        name: str, result: dict[str, object] | None = None, **artifact: object
    ) -> tuple[FitId, str]:
        request = ensembles.create(make_spec(name))
        attempt = ensembles.claim_attempt(request.fit_id, "test-worker")
        docs = FitResultDocs(write_artifact(make_artifact(**artifact)), result or {})
        outcome = ensembles.publish_result(request.fit_id, attempt, docs)
        assert outcome.artifact_digest is not None
        return request.fit_id, outcome.artifact_digest

    return publish_


@pytest.fixture
def image() -> Callable[..., bytes]:
    def encode(seed: int = 0, size: tuple[int, int] = (40, 36), kind: str = "PNG") -> bytes:
        pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, kind)
        return buffer.getvalue()

    return encode


Serve = Callable[..., Server]


@pytest.fixture
def serve(tmp_path: Path, store_url: str, redis_url: str) -> Iterator[Serve]:
    """Start `python -m service` with settings of the test's choice."""
    servers: list[Server] = []

    def start(**settings: object) -> Server:
        servers.append(Server(tmp_path, store_url, redis_url, **settings))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def damage_document(store_url: str, key: str) -> None:
    """Leave half of a stored document."""
    leave_half(Path(store_url.removeprefix("file://")) / key)


def _normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)
