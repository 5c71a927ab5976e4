"""Tenants as one file of tensors, for servers that know nothing of the object store."""

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from backbones.info import BackboneInfo
from benchmarks.serving.peer_servers.decoder import write_preprocessing
from benchmarks.serving.tenants import make_artifact


def write_tenants(info: BackboneInfo, count: int, path: Path) -> None:
    """Write the prompts and heads that `publish_tenants` publishes, and the preprocessing beside.

    Args:
        info: Of the backbone.
        count: Number of tenants T.
        path: File for prompts (T, L, P, D), weights (T, C, D) and biases (T, C).
    """
    artifacts = [make_artifact(info, seed) for seed in range(count)]
    tensors = {
        "prompts": np.stack([each.prompt_embeddings for each in artifacts]),
        "weights": np.stack([each.head_weight for each in artifacts]),
        "biases": np.stack([each.head_bias for each in artifacts]),
    }
    save_file(tensors, path)
    write_preprocessing(path, info.preprocessing)
