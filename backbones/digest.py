"""The digest that identifies a backbone."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict

import torch
from torch import Tensor

from images.preprocessing import Preprocessing


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
