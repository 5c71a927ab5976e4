"""A frozen Vision Transformer whose every image may carry its own prompt tokens.

Visual prompt tuning: Jia et al. 2022, "Visual Prompt Tuning", ECCV (arXiv 2203.12119).

    tokens before block 0   [prefix (CLS, registers) | P prompt tokens | patches]
    shallow, L = 1          prompt[0] is inserted before block 0 and flows through all blocks
    deep, L = depth         before block i >= 1 the P slots are replaced by prompt[i]

Prompt tokens carry no position embedding. For models with a norm before the blocks
(CLIP's `norm_pre`) they are inserted after it, so that they always enter block 0 as stored.
"""

import copy
import math
from collections.abc import Sequence

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from ensemble.errors import ShapeError, UnsupportedBackboneError


class PromptedViT(nn.Module):
    """A frozen timm `VisionTransformer` that maps images and prompts to features.

    Args:
        vit: The backbone, taken over: set to eval mode, its parameters frozen.
        mean: Per-channel mean of the pixels it was trained with, in [0, 1].
        std: Per-channel standard deviation of those pixels.

    Raises:
        UnsupportedBackboneError: Not a timm `VisionTransformer`, or it has no prefix token.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        vit: nn.Module,
        *,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        super().__init__()
        if not isinstance(vit, VisionTransformer):
            raise UnsupportedBackboneError(
                f"{type(vit).__name__} is not a timm VisionTransformer; prompts need its blocks"
            )
        if vit.num_prefix_tokens < 1:
            raise UnsupportedBackboneError("the backbone has 0 prefix tokens; at least 1 is needed")
        self.vit = vit.eval().requires_grad_(requires_grad=False)
        self.autocast_dtype: torch.dtype | None = None
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    @property
    def embed_dim(self) -> int:
        """Width D of tokens and features."""
        return int(self.vit.embed_dim)

    @property
    def depth(self) -> int:
        """Number of transformer blocks."""
        return len(self.vit.blocks)

    @property
    def num_prefix_tokens(self) -> int:
        """Number of CLS and register tokens."""
        return int(self.vit.num_prefix_tokens)

    @property
    def patch_size_px(self) -> int:
        """Side of a square patch."""
        return int(self.vit.patch_embed.patch_size[0])

    @property
    def device(self) -> torch.device:
        """Where the backbone's parameters are."""
        return self.mean.device

    def with_autocast(self, dtype: torch.dtype | None) -> "PromptedViT":
        """Return a view of the same weights that runs the matrix products in another precision.

        Args:
            dtype: Such as `torch.bfloat16`; None for float32.
        """
        view = copy.copy(self)
        view.autocast_dtype = dtype
        return view

    def forward(self, pixels: Tensor, prompt: Tensor | None = None) -> Tensor:
        """Return the backbone's pooled pre-logits under a prompt.

        Args:
            pixels: (B, 3, H, W), uint8 in [0, 255] or already normalised floating point.
            prompt: None, (L, P, D) for all images, or (B, L, P, D) with one prompt an image.
                L is 1 or the depth; P may be 0, which equals None bit for bit.

        Returns:
            Features (B, D), float32.

        Raises:
            ShapeError: The prompt's shape does not fit the backbone or the batch.
        """
        return self.encode(self.embed(pixels), prompt)

    def encode(self, tokens: Tensor, prompt: Tensor | None = None) -> Tensor:
        """Return features (B, D) of embedded images (B, T, D) under a prompt; see `forward`.

        Embedding once and encoding under each of many prompts saves the patch embedding.
        """
        if prompt is not None:
            prompt = self._per_row(prompt, len(tokens))
        with self._autocast(tokens):
            if prompt is None or prompt.shape[2] == 0:
                x = self.vit.blocks(tokens)  # (B, T, D)
            else:
                x = self._prompted_blocks(tokens, prompt)
            features = self.vit.forward_head(self.vit.norm(x), pre_logits=True)
        return features.float()  # (B, D)

    def embed(self, pixels: Tensor) -> Tensor:
        """Return the tokens (B, T, D) that enter block 0, without a prompt; see `forward`."""
        if pixels.dtype == torch.uint8:
            pixels = (pixels.float() / 255 - self.mean) / self.std
        vit = self.vit
        with self._autocast(pixels):
            return vit.norm_pre(vit.patch_drop(vit._pos_embed(vit.patch_embed(pixels))))  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]

    def _autocast(self, inputs: Tensor) -> torch.autocast:
        dtype = self.autocast_dtype
        return torch.autocast(inputs.device.type, dtype, enabled=dtype is not None)

    def check_prompt(self, prompt: Tensor) -> None:
        """Raise `ShapeError` unless (..., L, P, D) fits this backbone."""
        num_layers = prompt.shape[-3] if prompt.ndim >= 3 else 0  # noqa: PLR2004
        if num_layers not in (1, self.depth) or prompt.shape[-1] != self.embed_dim:
            raise ShapeError(
                f"prompt {tuple(prompt.shape)} does not fit the backbone: expected "
                f"(L, P, {self.embed_dim}) with L = 1 or {self.depth}"
            )

    def _per_row(self, prompt: Tensor, batch_size: int) -> Tensor:
        """A prompt (L, P, D) or (B, L, P, D) to (B, L, P, D), checked."""
        self.check_prompt(prompt)
        if prompt.ndim == 3:  # noqa: PLR2004
            return prompt.expand(batch_size, *prompt.shape)
        if prompt.ndim != 4 or len(prompt) != batch_size:  # noqa: PLR2004
            raise ShapeError(
                f"prompt {tuple(prompt.shape)} does not fit {batch_size} images: expected "
                f"(L, P, D) or ({batch_size}, L, P, D)"
            )
        return prompt

    def _prompted_blocks(self, x: Tensor, prompt: Tensor) -> Tensor:
        """Tokens (B, T, D) through all blocks with prompt (B, L, P, D), returned without it."""
        prefix, patches = x[:, : self.num_prefix_tokens], x[:, self.num_prefix_tokens :]
        start = self.num_prefix_tokens
        end = start + prompt.shape[2]
        prompt = prompt.to(x.dtype)
        x = torch.cat((prefix, prompt[:, 0], patches), dim=1)  # (B, prefix + P + patches, D)
        for i, block in enumerate(self.vit.blocks):
            if 0 < i < prompt.shape[1]:
                # In place: a block's output is a sum, which no backward pass needs again.
                x[:, start:end] = prompt[:, i]
            x = block(x)
        return torch.cat((x[:, :start], x[:, end:]), dim=1)


def init_prompt(
    num_layers: int,
    num_prompt_tokens: int,
    embed_dim: int,
    *,
    patch_size_px: int,
    generator: torch.Generator,
) -> Tensor:
    """Return a random prompt (L, P, D), uniform in (-v, v) with v = sqrt(6 / (3 patch^2 + D)).

    Source: Jia et al. 2022, the initialisation of their released code.
    """
    bound = math.sqrt(6 / (3 * patch_size_px**2 + embed_dim))
    unit = torch.rand(num_layers, num_prompt_tokens, embed_dim, generator=generator)
    return (2 * unit - 1) * bound
