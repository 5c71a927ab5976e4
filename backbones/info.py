"""What identifies a backbone: its shape, its preprocessing and a digest over both and its weights.

Two backbones with the same digest give the same features for the same pixels, so a prompt
trained on one is valid on the other. A name is not enough: weights of one name get retrained,
and a wrong mean or interpolation spoils a prompt as surely as wrong weights.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from images.preprocessing import Preprocessing

if TYPE_CHECKING:  # a process that only describes the backbone does without torch
    from ensemble.prompted_vit import PromptedViT


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
        dtype: Arithmetic of the forward pass, "fp32", "bf16" or "fp16".
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
    vit: "PromptedViT"
