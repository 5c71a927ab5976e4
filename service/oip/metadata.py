"""What the server and its models say about themselves."""

from typing import Any

from backbones.info import BackboneInfo
from service.inference.resolver import Served

EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "statistics",
)
PLATFORM = "hgprompt"


def server_metadata(version: str) -> dict[str, Any]:
    """Return the answer to `GET /v2`; `version` is the package's."""
    return {"name": "hgprompt", "version": version, "extensions": list(EXTENSIONS)}


def model_metadata(
    model: str,
    served: Served,
    versions: tuple[int, ...],
    *,
    num_classes: int,
    backbone: BackboneInfo,
) -> dict[str, Any]:
    """Return a model's signature; -1 stands for any number of rows."""
    side = backbone.image_size_px
    return {
        "name": model,
        "versions": [str(version) for version in versions],
        "platform": PLATFORM,
        "inputs": [
            {"name": "image", "datatype": "BYTES", "shape": [-1]},
            {"name": "pixels", "datatype": "FP32", "shape": [-1, 3, side, side]},
        ],
        "outputs": [
            {"name": "probabilities", "datatype": "FP32", "shape": [-1, num_classes]},
            {"name": "label", "datatype": "BYTES", "shape": [-1]},
            {"name": "features", "datatype": "FP32", "shape": [-1, backbone.embed_dim]},
        ],
        "parameters": {"digest": served.digest, "version": str(served.version)},
    }


def model_config(
    model: str, served: Served, *, num_classes: int, backbone: BackboneInfo
) -> dict[str, Any]:
    """Return a model's configuration, as Triton's clients look for it."""
    side = backbone.image_size_px
    return {
        "name": model,
        "platform": PLATFORM,
        "backend": PLATFORM,
        "version_policy": {"specific": {"versions": [served.version]}},
        "max_batch_size": 0,  # the first dimension is part of the shapes below
        "input": [
            {"name": "image", "data_type": "TYPE_STRING", "dims": [-1], "optional": True},
            {
                "name": "pixels",
                "data_type": "TYPE_FP32",
                "dims": [-1, 3, side, side],
                "optional": True,
            },
        ],
        "output": [
            {"name": "probabilities", "data_type": "TYPE_FP32", "dims": [-1, num_classes]},
            {"name": "label", "data_type": "TYPE_STRING", "dims": [-1]},
            {"name": "features", "data_type": "TYPE_FP32", "dims": [-1, backbone.embed_dim]},
        ],
        "dynamic_batching": {},  # it is done
        "parameters": {"digest": {"string_value": served.digest}},
    }
