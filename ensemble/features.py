"""Features of many images under one prompt, batch by batch."""

from collections.abc import Callable

import torch
from torch import Tensor

from ensemble.errors import FitStoppedError
from ensemble.prompted_vit import PromptedViT


@torch.no_grad()
def extract_features(
    vit: PromptedViT,
    pixels: Tensor,
    prompt: Tensor | None,
    *,
    batch_size: int,
    on_batch: Callable[[int], None] = lambda _: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Tensor:
    """Return features (N, D), float32 on the CPU, without a graph.

    Args:
        vit: The frozen backbone.
        pixels: (N, 3, H, W), uint8.
        prompt: None, or (L, P, D) shared by all images.
        batch_size: Images a forward pass.
        on_batch: Called after each batch with its number of images.
        should_stop: Asked before each batch.

    Raises:
        FitStoppedError: `should_stop` returned true.
    """
    prompt = None if prompt is None else prompt.to(vit.device, torch.float32)
    parts: list[Tensor] = []
    for batch in pixels.split(batch_size):
        if should_stop():
            raise FitStoppedError(f"stopped after {sum(map(len, parts))} of {len(pixels)} images")
        parts.append(vit(batch.to(vit.device), prompt).cpu())
        on_batch(len(batch))
    return torch.cat(parts)
