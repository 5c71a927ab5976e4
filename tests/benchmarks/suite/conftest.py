"""Small tasks, random prompts and a random backbone: a cell takes a fraction of a second."""

import base64
import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from backbones.info import LoadedBackbone
from backbones.loading import load_backbone
from benchmarks.suite.cells import Cell
from benchmarks.suite.records import CellRecord, Place
from prompt_store.codec import PromptFile, write_prompt

BACKBONE = "random:vit_tiny_patch16_224?seed=0&img_size=32&depth=2"
TARGETS = ("count", "mnist")
NUM_CLASSES = 3
MakeRecord = Callable[..., CellRecord]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HGPROMPT_BACKBONE", BACKBONE)
    monkeypatch.setenv("HGPROMPT_DEVICE", "cpu")
    monkeypatch.setenv("HGPROMPT_PRECISION", "fp32")
    monkeypatch.setenv("HGPROMPT_CACHE_DIR", str(tmp_path / "weights"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> LoadedBackbone:
    return load_backbone(
        BACKBONE,
        cache_dir=tmp_path_factory.mktemp("weights"),
        device=torch.device("cpu"),
        precision="fp32",
    )


def png(label: int, rng: np.random.Generator) -> bytes:
    """A noisy image whose brightness depends on its class."""
    noise = rng.normal(rng.normal(80 + 40 * label, 30), 60, (32, 32, 3))
    buffer = io.BytesIO()
    Image.fromarray(noise.clip(0, 255).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def write_archive(path: Path, images_a_class: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for label in range(NUM_CLASSES):
            for number in range(images_a_class):
                archive.writestr(f"class-{label}/{number}.png", png(label, rng))


@pytest.fixture(scope="session")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tasks of 3 classes with 20 pool and 12 test images each."""
    folder = tmp_path_factory.mktemp("tasks")
    for seed, name in enumerate(TARGETS):
        write_archive(folder / name / "pool.zip", 20, seed)
        write_archive(folder / name / "test.zip", 12, 100 + seed)
    return folder


@pytest.fixture(scope="session")
def prompts(tmp_path_factory: pytest.TempPathFactory, backbone: LoadedBackbone) -> Path:
    """Random prompts of 4 tokens for 5 tasks, both targets among them."""
    folder = tmp_path_factory.mktemp("prompts")
    info = backbone.info
    for seed, name in enumerate((*TARGETS, "digits", "emoji-group", "texture")):
        rng = np.random.default_rng(seed)
        array = rng.normal(0, 1, (info.depth, 4, info.embed_dim)).astype(np.float32)
        file = PromptFile(array, metadata={"backbone_digest": info.digest, "task": name})
        (folder / f"{name}.safetensors").write_bytes(write_prompt(file, "F16"))
    return folder


@pytest.fixture
def make_record() -> MakeRecord:
    """Make a finished cell from which of its test images were classified correctly."""

    def make(
        variant: str, target: str, seed: int, correct: np.ndarray, num_sources: int = 3
    ) -> CellRecord:
        accuracy = float(correct.mean())
        uses_sources = variant not in ("none", "vpt")
        place = Place(
            method=variant,
            source=None,
            tuned=False,
            accuracy=accuracy,
            log_loss=0.1,
            cross_fit_accuracy=accuracy,
            cross_fit_log_loss=0.1,
            test_accuracy=accuracy,
        )
        return CellRecord(
            cell=Cell(target, "full", seed, num_sources if uses_sources else 0, variant),
            options={},
            sources=(),
            task_digest="sha256:0",
            num_classes=2,
            num_images=100,
            test_accuracy=accuracy,
            test_log_loss=0.1,
            test_ece=0.05,
            test_correct=base64.b64encode(np.packbits(correct).tobytes()).decode(),
            num_test=len(correct),
            chosen=place,
            leaderboard=(place,),
            weights={},
            fit_s=1.0,
            run="run-1",
        )

    return make
