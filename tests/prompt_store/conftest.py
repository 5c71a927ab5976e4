from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from prompt_store.blobs import BlobStore
from prompt_store.codec import BackboneShape, PromptFile, write_prompt
from prompt_store.objects import ObjectStore, open_object_store
from prompt_store.registry import PromptRegistry, TaskRegistry

BACKBONE = BackboneShape(digest=f"sha256:{'b' * 64}", embed_dim=6, depth=3)


class SteppingClock:
    """A clock that a test sets forward."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, *, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def backbone() -> BackboneShape:
    return BACKBONE


@pytest.fixture
def clock() -> SteppingClock:
    return SteppingClock()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def objects(root: Path) -> ObjectStore:
    return open_object_store(root.as_uri())


@pytest.fixture
def blobs(objects: ObjectStore) -> BlobStore:
    return BlobStore(objects)


@pytest.fixture
def prompts(objects: ObjectStore, blobs: BlobStore, clock: SteppingClock) -> PromptRegistry:
    return PromptRegistry(objects, blobs, clock)


@pytest.fixture
def tasks(objects: ObjectStore, blobs: BlobStore, clock: SteppingClock) -> TaskRegistry:
    return TaskRegistry(objects, blobs, clock)


@pytest.fixture
def make_prompt() -> Callable[..., tuple[bytes, PromptFile]]:
    def make(seed: int = 0, **metadata: str) -> tuple[bytes, PromptFile]:
        values = np.random.default_rng(seed).standard_normal((1, 4, 6)).astype(np.float32)
        found = {"backbone_digest": BACKBONE.digest, **metadata}
        prompt = PromptFile(prompt_embeddings=values, metadata=found)
        return write_prompt(prompt), prompt

    return make
