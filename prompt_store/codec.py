"""Prompt files: bytes to checked arrays and back.

Tensors: `prompt_embeddings` (P, D) or (L, P, D); optional `head.weight` (C, D), `head.bias` (C,).
Metadata: `backbone_digest` (required), `backbone`, `classes` (a JSON list), `license`, free keys.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray

from prompt_store.checks import (
    check_finite,
    check_norm,
    check_shape,
    metadata_classes,
    metadata_digest,
)
from prompt_store.errors import InvalidPromptError
from prompt_store.manifests import Dtype
from prompt_store.tensor_file import (
    TensorFile,
    parse_tensor_file,
    read_limited,
    serialize_tensor_file,
)

PROMPT_DTYPES = ("F32", "F16", "BF16")
PROMPT_TENSORS = ("prompt_embeddings", "head.weight", "head.bias")
RESERVED_METADATA = frozenset(
    {"backbone", "backbone_digest", "classes", "license", "original_format", "original_digest"}
)


@dataclass(frozen=True)
class PromptLimits:
    """What an uploaded file may not exceed.

    Attributes:
        max_bytes: The whole file.
        max_header_bytes: The JSON header with its padding.
        max_prompt_tokens: P.
        max_norm: Euclidean norm of any token, any row of the head, or the bias.
    """

    max_bytes: int = 16_000_000
    max_header_bytes: int = 65_536
    max_prompt_tokens: int = 512
    max_norm: float = 1e4


_DEFAULT_LIMITS = PromptLimits()


@dataclass(frozen=True)
class BackboneShape:
    """The backbone that a prompt must have been trained on.

    Attributes:
        digest: `sha256:<hex>`.
        embed_dim: D.
        depth: Number of blocks, the depth L of a deep prompt.
    """

    digest: str
    embed_dim: int
    depth: int


@dataclass(frozen=True, eq=False)
class PromptFile:
    """A source prompt, as its file holds it.

    Attributes:
        prompt_embeddings: float32 (L, P, D); L = 1 is a shallow prompt.
        head_weight: float32 (C, D), the source task's class head.
        head_bias: float32 (C,).
        metadata: The file's strings.
        dtype: In which `prompt_embeddings` is stored.
    """

    prompt_embeddings: NDArray[np.float32]
    head_weight: NDArray[np.float32] | None = None
    head_bias: NDArray[np.float32] | None = None
    metadata: dict[str, str] = field(default_factory=dict[str, str])
    dtype: Dtype = "F32"

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Class names of the source task in index order, None if the file does not tell them."""
        return metadata_classes(self.metadata) if "classes" in self.metadata else None

    @property
    def labels(self) -> dict[str, str]:
        """The free metadata: all keys that have no meaning of their own."""
        return {k: v for k, v in self.metadata.items() if k not in RESERVED_METADATA}


def read_prompt(
    source: bytes | Path, limits: PromptLimits, backbone: BackboneShape | None = None
) -> PromptFile:
    """Read a prompt file, trusting nothing in it.

    Args:
        source: The file's bytes, or where they are.
        limits: What the file may not exceed.
        backbone: What it must fit; None skips that (for files whose backbone is checked elsewhere).

    Raises:
        PromptTooLargeError: The file is above `max_bytes`; it was not read.
        InvalidPromptError: Anything else is wrong; the message names the value and the limit.
    """
    file = parse_tensor_file(
        read_limited(source, limits.max_bytes),
        max_header_bytes=limits.max_header_bytes,
        dtypes=PROMPT_DTYPES,
        names=PROMPT_TENSORS,
    )
    check_backbone_digest(file.metadata, backbone)
    if "prompt_embeddings" not in file.specs:
        raise InvalidPromptError("tensor prompt_embeddings is missing", field="prompt_embeddings")
    shape = file.specs["prompt_embeddings"].shape
    if len(shape) == 2:  # noqa: PLR2004 - (P, D)
        shape = (1, *shape)
    check_prompt_shape("prompt_embeddings", shape, limits, backbone)
    check_head(file, shape[-1])
    arrays = file.arrays()
    for name, array in arrays.items():
        check_finite(name, array)
        check_norm(name, array, limits.max_norm)
    return PromptFile(
        prompt_embeddings=arrays["prompt_embeddings"].reshape(shape),
        head_weight=arrays.get("head.weight"),
        head_bias=arrays.get("head.bias"),
        metadata=file.metadata,
        dtype=cast("Dtype", file.specs["prompt_embeddings"].dtype),
    )


def write_prompt(
    prompt: PromptFile,
    dtype: Literal["F32", "F16"] = "F32",
    *,
    limits: PromptLimits = _DEFAULT_LIMITS,
) -> bytes:
    """Return the prompt's file; equal prompts give equal bytes.

    Args:
        prompt: Its metadata must have a `backbone_digest`.
        dtype: Of every tensor.
        limits: What the file may not exceed.

    Raises:
        InvalidPromptError: `read_prompt` would refuse the file, or a value does not fit the dtype.
    """
    tensors = {"prompt_embeddings": (dtype, prompt.prompt_embeddings)}
    if prompt.head_weight is not None:
        tensors["head.weight"] = (dtype, prompt.head_weight)
    if prompt.head_bias is not None:
        tensors["head.bias"] = (dtype, prompt.head_bias)
    data = serialize_tensor_file(tensors, prompt.metadata)
    read_prompt(data, limits)
    return data


def check_backbone_digest(metadata: dict[str, str], backbone: BackboneShape | None) -> None:
    """Check the digests that metadata names.

    Raises:
        InvalidPromptError: `backbone_digest` is missing, malformed or not the backbone's.
    """
    if backbone is not None and "backbone_digest" not in metadata:
        raise InvalidPromptError(
            "metadata backbone_digest is missing; if the prompt was trained on the backbone "
            f"served here, set it to {backbone.digest}",
            field="backbone_digest",
        )
    digest = metadata_digest(metadata, "backbone_digest")
    if backbone is not None and digest != backbone.digest:
        raise InvalidPromptError(
            f"the prompt was trained on backbone {digest}; the backbone here is {backbone.digest}",
            field="backbone_digest",
        )
    if "original_digest" in metadata:
        metadata_digest(metadata, "original_digest")


def check_prompt_shape(
    name: str, shape: tuple[int, ...], limits: PromptLimits, backbone: BackboneShape | None
) -> None:
    """Check (L, P, D) against the limits and the backbone, before anything is allocated.

    Raises:
        InvalidPromptError: It is not three-dimensional, P is 0 or too large, L is neither 1 nor the
            backbone's depth, or D is not the backbone's.
    """
    if len(shape) != 3 or 0 in (shape[0], shape[2]):  # noqa: PLR2004 - (L, P, D)
        raise InvalidPromptError(
            f"{name} has shape {list(shape)}; expected (P, D) or (L, P, D)", field=name
        )
    depth, num_prompt_tokens, embed_dim = shape
    if not 1 <= num_prompt_tokens <= limits.max_prompt_tokens:
        raise InvalidPromptError(
            f"{name} of shape {list(shape)} has {num_prompt_tokens} prompt tokens; "
            f"it must have 1 to {limits.max_prompt_tokens}",
            field=name,
            limit=limits.max_prompt_tokens,
        )
    if backbone is None:
        return
    if embed_dim != backbone.embed_dim:
        raise InvalidPromptError(
            f"{name} of shape {list(shape)} has width {embed_dim}; "
            f"the backbone's is {backbone.embed_dim}",
            field=name,
            limit=backbone.embed_dim,
        )
    if depth not in (1, backbone.depth):
        raise InvalidPromptError(
            f"{name} of shape {list(shape)} has depth {depth}; it must be 1 or the backbone's "
            f"{backbone.depth}",
            field=name,
            limit=backbone.depth,
        )


def check_head(file: TensorFile, embed_dim: int) -> None:
    """Check that head and class names, where given, agree with each other and with D.

    Raises:
        InvalidPromptError: They do not, or there is a bias without a weight.
    """
    classes = metadata_classes(file.metadata) if "classes" in file.metadata else None
    weight, bias = file.specs.get("head.weight"), file.specs.get("head.bias")
    if weight is None:
        if bias is not None:
            raise InvalidPromptError("head.bias comes without head.weight", field="head.bias")
        return
    num_classes = weight.shape[0] if classes is None and weight.shape else len(classes or ())
    why = "(classes, width)" if classes is None else f"for {num_classes} classes"
    check_shape("head.weight", weight.shape, (max(num_classes, 1), embed_dim), why)
    if bias is not None:
        check_shape("head.bias", bias.shape, (num_classes,), why)
