"""In which arithmetic a backbone runs."""

import copy
from dataclasses import replace
from typing import Literal

import torch
from torch import nn

from backbones.info import LoadedBackbone

Precision = Literal["fp32", "bf16", "fp16"]

_AUTOCAST_DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def in_precision(loaded: LoadedBackbone, precision: Precision) -> LoadedBackbone:
    """Return a float32 backbone in another arithmetic; the one given stays as it is.

    "bf16" and "fp16" run the matrix products in that type and keep norms, softmax and the sum
    that flows from block to block in float32. The weights of linear layers are converted once,
    rather than at every forward pass.

    Args:
        loaded: A float32 backbone.
        precision: "fp16" needs a GPU.
    """
    dtype = _AUTOCAST_DTYPES[precision]
    if dtype is None:
        return loaded
    vit = copy.deepcopy(loaded.vit).with_autocast(dtype)
    for module in vit.modules():
        if isinstance(module, nn.Linear):
            module.to(dtype)
    return LoadedBackbone(info=replace(loaded.info, dtype=precision), vit=vit)
