"""A store with source prompts and a small task in it, for a backbone of two blocks."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from backbones.info import LoadedBackbone
from jobs.context import FitContext
from jobs.ensembles import EnsembleStore
from jobs.records import FitSpec, SourceRef, TaskRef
from prompt_store.blobs import BlobStore
from prompt_store.codec import PromptFile, write_prompt
from tests.tiny_backbone import TINY_BACKBONE, load_tiny_backbone


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def backbone() -> LoadedBackbone:
    return load_tiny_backbone()


@pytest.fixture
def tiny_environment(monkeypatch: pytest.MonkeyPatch, store_url: str) -> None:
    """The settings of a process that uses the tiny backbone and the store of the test."""
    monkeypatch.setenv("HGPROMPT_BACKBONE", TINY_BACKBONE)
    monkeypatch.setenv("HGPROMPT_DEVICE", "cpu")
    monkeypatch.setenv("HGPROMPT_PRECISION", "fp32")
    monkeypatch.setenv("HGPROMPT_STORE_URL", store_url)


class TaskFolder(NamedTuple):
    """A folder with one folder per class, and its images in order of classes and names."""

    path: Path
    classes: tuple[str, ...]


def image_bytes(rng: np.random.Generator, index: int) -> bytes:
    """A noisy image whose darker channel is its class."""
    pixels = rng.integers(0, 256, (24, 20, 3), dtype=np.uint8)
    pixels[..., index % 3] //= 3
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[..., TaskFolder]:
    def make(name: str = "task", seed: int = 0, **counts: int) -> TaskFolder:
        rng = np.random.default_rng(seed)
        counts = counts or {"cyan": 10, "magenta": 10, "yellow": 10}
        for index, (label, count) in enumerate(sorted(counts.items())):
            folder = tmp_path / name / label
            folder.mkdir(parents=True)
            for i in range(count):
                (folder / f"{i:03}.png").write_bytes(image_bytes(rng, index))
        return TaskFolder(tmp_path / name, tuple(sorted(counts)))

    return make


@pytest.fixture
def put_task(blobs: BlobStore, make_folder: Callable[..., TaskFolder]) -> Callable[..., TaskRef]:
    """Store a folder of images as a zip."""

    def put(folder: Path | None = None, **more: bytes) -> TaskRef:
        root = folder or make_folder().path
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for path in sorted(root.rglob("*.png")):
                archive.writestr(str(path.relative_to(root)), path.read_bytes())
            for name, data in more.items():
                archive.writestr(name.replace("__", "/"), data)
        return TaskRef(name="inks", version=1, digest=blobs.put_bytes(buffer.getvalue()))

    return put


@pytest.fixture
def put_prompt(blobs: BlobStore, backbone: LoadedBackbone) -> Callable[..., SourceRef]:
    """Store a random source prompt."""

    def put(name: str, seed: int = 0, *, num_layers: int = 2, values: object = None) -> SourceRef:
        rng = np.random.default_rng(seed)
        shape = (num_layers, 3, backbone.info.embed_dim)
        prompt = rng.standard_normal(shape) if values is None else np.asarray(values)
        metadata = {"backbone": "tiny", "backbone_digest": backbone.info.digest}
        data = write_prompt(PromptFile(prompt.astype(np.float32), metadata=metadata), "F16")
        return SourceRef(name=name, version=1, digest=blobs.put_bytes(data))

    return put


@pytest.fixture
def make_spec(
    backbone: LoadedBackbone,
    put_task: Callable[..., TaskRef],
    put_prompt: Callable[..., SourceRef],
) -> Callable[..., FitSpec]:
    """Make a request of three sources on the small task, but for what a test changes."""

    def make(name: str = "inks", **fields: object) -> FitSpec:
        usual: dict[str, object] = {
            "sources": tuple(put_prompt(n, seed) for seed, n in enumerate(("one", "two", "three"))),
            "backbone_digest": backbone.info.digest,
            **fields,
        }
        if "task" not in usual:
            usual["task"] = put_task()
        return FitSpec.model_validate({"name": name, **usual})

    return make


@pytest.fixture
def claim(ensembles: EnsembleStore) -> Callable[[FitSpec], FitContext]:
    """Make a request durable and claim it, as a worker does."""

    def claim_(spec: FitSpec) -> FitContext:
        request = ensembles.create(spec)
        return FitContext(request, ensembles.claim_attempt(request.fit_id, "test-worker"))

    return claim_
