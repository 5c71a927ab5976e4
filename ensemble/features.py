"""Features of many images under some prompts, batch by batch."""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from ensemble.errors import FitStoppedError
from ensemble.prompted_vit import PromptedViT


class FeatureExtractor(Protocol):
    """What `extract_features` does; another one may know some features already."""

    def __call__(
        self,
        vit: PromptedViT,
        pixels: Tensor,
        prompts: Sequence[Tensor | None],
        *,
        batch_size: int,
        on_batch: Callable[[int], None] = ...,
        should_stop: Callable[[], bool] = ...,
    ) -> list[Tensor]:
        """Return features (N, D) of images (N, 3, H, W) under each prompt."""
        ...


@torch.no_grad()
def extract_features(
    vit: PromptedViT,
    pixels: Tensor,
    prompts: Sequence[Tensor | None],
    *,
    batch_size: int,
    on_batch: Callable[[int], None] = lambda _: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> list[Tensor]:
    """Return features (N, D) under each prompt, float32 on the CPU, without a graph.

    A batch's patches are embedded once for all prompts.

    Args:
        vit: The frozen backbone.
        pixels: (N, 3, H, W), uint8.
        prompts: None, or (L, P, D) shared by all images.
        batch_size: Images a forward pass.
        on_batch: Called after each forward pass with its number of images.
        should_stop: Asked before each forward pass.

    Raises:
        FitStoppedError: `should_stop` returned true.
    """
    on_device = [None if p is None else p.to(vit.device, torch.float32) for p in prompts]
    parts: list[list[Tensor]] = [[] for _ in prompts]
    for batch in pixels.split(batch_size):
        tokens = vit.embed(batch.to(vit.device))
        for features, prompt in zip(parts, on_device, strict=True):
            if should_stop():
                done = sum(len(part) for row in parts for part in row)
                raise FitStoppedError(
                    f"stopped after {done} of {len(pixels) * len(prompts)} forward passes"
                )
            features.append(vit.encode(tokens, prompt).cpu())
            on_batch(len(batch))
    return [torch.cat(features) for features in parts]
