"""Real processes under faults; what they serve is made by the fixtures of `tests/service`."""

# ruff: noqa: F811 - the names of fixtures

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from backbones.info import LoadedBackbone
from backbones.loading import load_backbone
from jobs.records import FitId
from tests.faults.server import SLOW_BACKBONE
from tests.service.conftest import (  # noqa: F401 - fixtures
    Serve,
    image,
    loaded,
    make_artifact,
    make_prompt,
    make_spec,
    make_task,
    publish,
    serve,
)


@pytest.fixture(scope="session")
def slow() -> LoadedBackbone:
    """The backbone on which a queue builds up."""
    torch.set_num_threads(1)
    return load_backbone(
        SLOW_BACKBONE, cache_dir=Path("unused"), device=torch.device("cpu"), precision="fp32"
    )


@pytest.fixture
def publish_slow(
    publish: Callable[..., tuple[FitId, str]], slow: LoadedBackbone
) -> Callable[..., None]:
    """Record ensembles of random artifacts for it."""

    def publish_(*names: str) -> None:
        for seed, name in enumerate(names):
            publish(name, seed=seed, num_layers=1, backbone_digest=slow.info.digest)

    return publish_
