"""What identifies a backbone: its shape, its preprocessing and a digest over both and its weights.

Two backbones with the same digest give the same features for the same pixels, so a prompt
trained on one is valid on the other. A name is not enough: weights of one name get retrained,
and a wrong mean or interpolation spoils a prompt as surely as wrong weights.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from ensemble.prompted_vit import PromptedViT
from images.preprocessing import Preprocessing


@dataclass(frozen=True)
class BackboneInfo:
    """A backbone as the registry shows it.

    Attributes:
        name: The setting it was loaded from, without a path.
        digest: `sha256:<hex>` over architecture, preprocessing and canonical weights.
        embed_dim: Width D of tokens and features.
        depth: Number of transformer blocks.
        num_prefix_tokens: CLS and register tokens before the prompt.
        patch_size_px: Side of a patch.
        preprocessing: How an image becomes pixels.
        dtype: Arithmetic of the forward pass, "fp32" or "bf16".
    """

    name: str
    digest: str
    embed_dim: int
    depth: int
    num_prefix_tokens: int
    patch_size_px: int
    preprocessing: Preprocessing
    dtype: str

    @property
    def image_size_px(self) -> int:
        """Side of the square input image."""
        return self.preprocessing.image_size_px


@dataclass(frozen=True)
class LoadedBackbone:
    """A backbone in memory, with what identifies it."""

    info: BackboneInfo
    vit: PromptedViT


def backbone_digest(
    architecture: Mapping[str, str | int],
    preprocessing: Preprocessing,
    weights: Mapping[str, Tensor],
) -> str:
    """Return `sha256:<hex>` over what determines the features.

    Args:
        architecture: timm name and the arguments that change the computation.
        preprocessing: How an image becomes pixels.
        weights: Parameters as published, before any resampling (whose last bits depend on the
            machine), on any device.
    """
    header = {"architecture": dict(architecture), "preprocessing": asdict(preprocessing)}
    sha256 = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        sha256.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        sha256.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return f"sha256:{sha256.hexdigest()}"
