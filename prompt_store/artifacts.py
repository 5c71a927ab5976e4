"""Ensemble artifacts: what a fit publishes, and a classifier serves, in one safetensors file.

Tensors: `weights` (M,) F64, `prompt_embeddings` (L, P, D) F32 (P = 0 without a prompt),
`head.weight` (C, D) F32, `head.bias` (C,) F32. Metadata: `backbone_digest`, `classes` and `sources`
(JSON lists), and whatever else the fit records of its lineage.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from prompt_store.checks import (
    check_finite,
    check_shape,
    metadata_classes,
    metadata_digest,
    metadata_json_list,
)
from prompt_store.errors import InvalidPromptError
from prompt_store.names import DIGEST_PATTERN, shown
from prompt_store.tensor_file import (
    TensorFile,
    parse_tensor_file,
    read_limited,
    serialize_tensor_file,
)

_DTYPES = {"weights": "F64", "prompt_embeddings": "F32", "head.weight": "F32", "head.bias": "F32"}
_MAX_BYTES = 256_000_000
_MAX_HEADER_BYTES = 16_000_000  # 10,000 class names of 256 characters, escaped
_SUM_TOLERANCE = 1e-6


@dataclass(frozen=True)
class ArtifactSource:
    """A source prompt with its weight alpha in the ensemble."""

    name: str
    version: int
    digest: str
    weight: float


_SOURCES = TypeAdapter(tuple[ArtifactSource, ...])


@dataclass(frozen=True, eq=False)
class Artifact:
    """A fitted ensemble.

    Attributes:
        weights: float64 (M,), non-negative, sum 1; M = 0 if no source was used.
        prompt_embeddings: float32 (L, P, D), the composite prompt.
        head_weight: float32 (C, D).
        head_bias: float32 (C,).
        metadata: Strings, made by `artifact_metadata`.
    """

    weights: NDArray[np.float64]
    prompt_embeddings: NDArray[np.float32]
    head_weight: NDArray[np.float32]
    head_bias: NDArray[np.float32]
    metadata: dict[str, str]

    @property
    def backbone_digest(self) -> str:
        """`sha256:<hex>` of the backbone that it was fitted on."""
        return metadata_digest(self.metadata, "backbone_digest")

    @property
    def classes(self) -> tuple[str, ...]:
        """The C class names in index order."""
        return metadata_classes(self.metadata)

    @property
    def sources(self) -> tuple[ArtifactSource, ...]:
        """The M sources in the order of `weights`."""
        return _parse_sources(self.metadata)


def artifact_metadata(
    *,
    classes: Sequence[str],
    sources: Sequence[ArtifactSource],
    backbone_digest: str,
    lineage: Mapping[str, str],
) -> dict[str, str]:
    """Return an artifact's metadata.

    Args:
        classes: The C class names in index order.
        sources: The M sources in the order of the weights.
        backbone_digest: `sha256:<hex>`.
        lineage: Further strings: method, seed, task digest, code version, …
    """
    return {
        **lineage,
        "backbone_digest": backbone_digest,
        "classes": json.dumps(list(classes), ensure_ascii=False),
        "sources": json.dumps([asdict(source) for source in sources], ensure_ascii=False),
    }


def read_artifact(source: bytes | Path) -> Artifact:
    """Read an artifact.

    Raises:
        InvalidPromptError: It is not one; the message names the value and what was expected.
    """
    file = parse_tensor_file(
        read_limited(source, _MAX_BYTES),
        max_header_bytes=_MAX_HEADER_BYTES,
        dtypes=("F64", "F32"),
        names=tuple(_DTYPES),
    )
    _check_header(file)
    arrays = file.arrays()
    for name, array in arrays.items():
        check_finite(name, array)
    weights = arrays["weights"]
    if weights.size and (weights.min() < 0 or abs(weights.sum() - 1) > _SUM_TOLERANCE):
        raise InvalidPromptError(
            f"weights have minimum {weights.min():g} and sum {weights.sum():.9g}; "
            f"expected none below 0 and sum 1 within {_SUM_TOLERANCE:g}",
            field="weights",
            limit=_SUM_TOLERANCE,
        )
    return Artifact(
        weights=weights,
        prompt_embeddings=arrays["prompt_embeddings"],
        head_weight=arrays["head.weight"],
        head_bias=arrays["head.bias"],
        metadata=file.metadata,
    )


def write_artifact(artifact: Artifact) -> bytes:
    """Return the artifact's file; equal artifacts give equal bytes, hence equal digests.

    Raises:
        InvalidPromptError: `read_artifact` would refuse the file.
    """
    tensors = {
        "weights": artifact.weights,
        "prompt_embeddings": artifact.prompt_embeddings,
        "head.weight": artifact.head_weight,
        "head.bias": artifact.head_bias,
    }
    data = serialize_tensor_file(
        {name: (_DTYPES[name], array) for name, array in tensors.items()}, artifact.metadata
    )
    read_artifact(data)
    return data


def _check_header(file: TensorFile) -> None:
    for name, dtype in _DTYPES.items():
        if name not in file.specs or file.specs[name].dtype != dtype:
            found = file.specs[name].dtype if name in file.specs else "missing"
            raise InvalidPromptError(f"tensor {name} is {found}; expected {dtype}", field=name)
    metadata_digest(file.metadata, "backbone_digest")
    num_classes = len(_required_classes(file))
    num_sources = len(_parse_sources(file.metadata))
    shapes = {name: spec.shape for name, spec in file.specs.items()}
    prompt = shapes["prompt_embeddings"]
    if len(prompt) != 3 or 0 in (prompt[0], prompt[2]):  # noqa: PLR2004 - (L, P, D)
        raise InvalidPromptError(
            f"prompt_embeddings has shape {list(prompt)}; expected (L, P, D)",
            field="prompt_embeddings",
        )
    why = f"for {num_classes} classes"
    check_shape("weights", shapes["weights"], (num_sources,), f"for {num_sources} sources")
    check_shape("head.weight", shapes["head.weight"], (num_classes, prompt[2]), why)
    check_shape("head.bias", shapes["head.bias"], (num_classes,), why)


def _required_classes(file: TensorFile) -> tuple[str, ...]:
    if "classes" not in file.metadata:
        raise InvalidPromptError("metadata classes is missing", field="classes")
    return metadata_classes(file.metadata)


def _parse_sources(metadata: Mapping[str, str]) -> tuple[ArtifactSource, ...]:
    if "sources" not in metadata:
        raise InvalidPromptError("metadata sources is missing", field="sources")
    try:
        sources = _SOURCES.validate_python(metadata_json_list(metadata, "sources"))
    except ValidationError as error:
        raise InvalidPromptError(
            f"metadata sources is {shown(metadata['sources'])}; each source must have exactly "
            "name, version, digest and weight",
            field="sources",
        ) from error
    for source in sources:
        if not re.fullmatch(DIGEST_PATTERN, source.digest):
            raise InvalidPromptError(
                f"source {shown(source.name)} has digest {shown(source.digest)}", field="sources"
            )
    return sources
