"""Import of prompts in the layout of Visual Prompt Tuning (Jia et al. 2022).

Tensors: `shallow_prompt` (P, D) or (1, P, D), the tokens before the first block, and `deep_prompt`
(L - 1, P, D), those before each later block. `deep_prompt` alone holds all L layers. The optional
`head.weight` and `head.bias` are those of a prompt file.

Such files do not say which backbone they belong to. Without a `backbone_digest` in the metadata the
one served here is assumed, provided that the shapes fit, and the label `backbone_digest_assumed`
says so.
"""

from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from prompt_store.codec import (
    PROMPT_DTYPES,
    BackboneShape,
    PromptFile,
    PromptLimits,
    check_backbone_digest,
    check_head,
    check_prompt_shape,
    read_prompt,
    write_prompt,
)
from prompt_store.errors import InvalidPromptError
from prompt_store.names import digest_of
from prompt_store.tensor_file import TensorFile, parse_tensor_file, read_limited

VPT_TENSORS = ("shallow_prompt", "deep_prompt")


def import_vpt(
    source: bytes | Path, limits: PromptLimits, backbone: BackboneShape
) -> tuple[bytes, PromptFile]:
    """Convert a file in the VPT layout; F16 stays F16, everything else becomes F32.

    Args:
        source: The original's bytes, or where they are.
        limits: What neither it nor the converted file may exceed.
        backbone: What the prompt must fit.

    Returns:
        The converted file's bytes and what they hold; the metadata keeps the original's digest.

    Raises:
        InvalidPromptError: As `read_prompt`, or the layers do not add up to the backbone's depth.
    """
    data = read_limited(source, limits.max_bytes)
    file = parse_tensor_file(
        data,
        max_header_bytes=limits.max_header_bytes,
        dtypes=PROMPT_DTYPES,
        names=(*VPT_TENSORS, "head.weight", "head.bias"),
    )
    metadata = _metadata(file, digest_of(data), backbone)
    check_backbone_digest(metadata, backbone)
    _check_layers(file, limits, backbone)
    check_head(file, backbone.embed_dim)
    arrays = file.arrays()
    prompt = PromptFile(
        prompt_embeddings=_stack(arrays),
        head_weight=arrays.get("head.weight"),
        head_bias=arrays.get("head.bias"),
        metadata=metadata,
    )
    all_f16 = all(spec.dtype == "F16" for spec in file.specs.values())
    converted = write_prompt(prompt, "F16" if all_f16 else "F32", limits=limits)
    return converted, read_prompt(converted, limits, backbone)


def _metadata(file: TensorFile, original_digest: str, backbone: BackboneShape) -> dict[str, str]:
    assumed = {"backbone_digest": backbone.digest, "backbone_digest_assumed": "true"}
    return {
        **({} if "backbone_digest" in file.metadata else assumed),
        **file.metadata,
        "original_format": "vpt",
        "original_digest": original_digest,
    }


def _check_layers(file: TensorFile, limits: PromptLimits, backbone: BackboneShape) -> None:
    shapes = {n: _layered(file.specs[n].shape) for n in VPT_TENSORS if n in file.specs}
    if not shapes:
        raise InvalidPromptError(
            f"none of the tensors {', '.join(VPT_TENSORS)} is there", field="shallow_prompt"
        )
    for name, shape in shapes.items():
        any_depth = shape[0] if shape else 0  # a scalar has no shape at all
        check_prompt_shape(name, shape, limits, BackboneShape("", backbone.embed_dim, any_depth))
    if len({shape[1:] for shape in shapes.values()}) > 1:
        raise InvalidPromptError(
            f"shallow_prompt {list(shapes['shallow_prompt'])} and deep_prompt "
            f"{list(shapes['deep_prompt'])} differ in tokens or width",
            field="deep_prompt",
        )
    depth = sum(shape[0] for shape in shapes.values())
    expected = backbone.depth if "deep_prompt" in shapes else 1
    if depth != expected:
        raise InvalidPromptError(
            f"{' and '.join(shapes)} have {depth} layers in all; expected {expected}",
            field="deep_prompt" if "deep_prompt" in shapes else "shallow_prompt",
            limit=expected,
        )


def _layered(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (1, *shape) if len(shape) == 2 else shape  # noqa: PLR2004 - (P, D)


def _stack(arrays: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
    layers = [arrays[name] for name in VPT_TENSORS if name in arrays]
    stacked = np.concatenate([x.reshape(_layered(x.shape)) for x in layers])  # shape: (L, P, D)
    return cast("NDArray[np.float32]", stacked)
