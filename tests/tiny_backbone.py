"""The backbone of most tests: two blocks of random weights, for images of 32 pixels."""

from pathlib import Path

import torch

from backbones.info import LoadedBackbone
from backbones.loading import load_backbone

TINY_BACKBONE = "random:vit_tiny_patch16_224?seed=0&img_size=32&depth=2"


def load_tiny_backbone() -> LoadedBackbone:
    return load_backbone(
        TINY_BACKBONE, cache_dir=Path("unused"), device=torch.device("cpu"), precision="fp32"
    )
