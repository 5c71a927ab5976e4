"""The safetensors container: 8 bytes of header length, a JSON header, the tensors' bytes.

Written here rather than taken from the `safetensors` package because that one cannot limit the
header, accepts repeated keys, and orders metadata by chance, while a digest needs every byte fixed.
The format: https://github.com/huggingface/safetensors#format
"""

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prompt_store.errors import InvalidPromptError, PromptTooLargeError
from prompt_store.names import shown
from prompt_store.tensor_header import TensorSpec, parse_header

ITEM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
_NUMPY_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_LENGTH = struct.Struct("<Q")


@dataclass(frozen=True)
class TensorFile:
    """A parsed header over the file's bytes.

    Attributes:
        specs: Tensors by name, in the order of the header.
        metadata: The header's `__metadata__`.
        body: The bytes that offsets count in.
    """

    specs: dict[str, TensorSpec]
    metadata: dict[str, str]
    body: memoryview

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Decode every tensor: F64 to float64, all others to float32.

        Raises:
            InvalidPromptError: The tensors do not fill the body exactly, one after the other.
        """
        self._check_layout()
        return {name: self._decode(spec) for name, spec in self.specs.items()}

    def _check_layout(self) -> None:
        position = 0
        by_offset = sorted(self.specs.items(), key=lambda item: (item[1].begin, item[1].end))
        for name, spec in by_offset:
            field = shown(name)
            needed = prod(spec.shape) * ITEM_BYTES[spec.dtype]
            if spec.end - spec.begin != needed:
                raise InvalidPromptError(
                    f"tensor {field}: {spec.dtype} of shape {list(spec.shape)} takes {needed} "
                    f"bytes, but its data_offsets are [{spec.begin}, {spec.end}]",
                    field=name,
                )
            if spec.end > len(self.body):
                raise InvalidPromptError(
                    f"tensor {field}: data_offsets [{spec.begin}, {spec.end}] reach beyond the "
                    f"{len(self.body)} bytes of data in the file",
                    field=name,
                    limit=len(self.body),
                )
            if spec.begin != position:
                kind = "overlap" if spec.begin < position else "leave a hole"
                raise InvalidPromptError(
                    f"tensor {field}: data_offsets [{spec.begin}, {spec.end}] {kind}: "
                    f"this tensor must begin at byte {position}",
                    field=name,
                )
            position = spec.end
        if position != len(self.body):
            raise InvalidPromptError(
                f"the file has {len(self.body)} bytes of data, but its tensors end at {position}",
                field="data_offsets",
                limit=position,
            )

    def _decode(self, spec: TensorSpec) -> NDArray[Any]:
        flat = np.frombuffer(self.body[spec.begin : spec.end], dtype=_NUMPY_DTYPES[spec.dtype])
        if spec.dtype == "BF16":  # the upper half of a float32
            flat = (flat.astype(np.uint32) << 16).view(np.float32)
        return flat.astype(np.float64 if spec.dtype == "F64" else np.float32).reshape(spec.shape)


def read_limited(source: bytes | Path, max_bytes: int) -> bytes:
    """Return the bytes of `source`, reading no more than the limit allows.

    Raises:
        PromptTooLargeError: There are more than `max_bytes`.
    """
    size_bytes = source.stat().st_size if isinstance(source, Path) else len(source)
    if size_bytes > max_bytes:
        raise PromptTooLargeError(
            f"the file has {size_bytes} bytes; the limit is {max_bytes}",
            field="file",
            limit=max_bytes,
        )
    return source.read_bytes() if isinstance(source, Path) else source


def parse_tensor_file(
    data: bytes, *, max_header_bytes: int, dtypes: Sequence[str], names: Sequence[str]
) -> TensorFile:
    """Parse and check the header; no tensor is decoded.

    Args:
        data: The whole file.
        max_header_bytes: Limit on the header, padding included.
        dtypes: Those allowed, of `ITEM_BYTES`.
        names: Tensor names allowed.

    Raises:
        InvalidPromptError: The header is malformed or beyond its limit, repeats a key, or names a
            tensor, dtype or property that is not allowed.
    """
    text, body = _split(data, max_header_bytes)
    specs, metadata = parse_header(text, dtypes=dtypes, names=names)
    return TensorFile(specs, metadata, body)


def serialize_tensor_file(
    tensors: Mapping[str, tuple[str, NDArray[Any]]], metadata: Mapping[str, str]
) -> bytes:
    """Return the one file that holds these tensors and this metadata; equal input, equal bytes.

    Wider dtypes come first, so that every tensor is aligned, then names in order; metadata in
    order of its keys; the header is padded to a multiple of 8 bytes with spaces.

    Args:
        tensors: Name to dtype (F64, F32 or F16) and array.
        metadata: Strings, which UTF-8 can encode.

    Raises:
        InvalidPromptError: A finite value does not fit the dtype.
    """
    ordered = sorted(tensors.items(), key=lambda item: (-ITEM_BYTES[item[1][0]], item[0]))
    header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))}
    parts: list[bytes] = []
    position = 0
    for name, (dtype, array) in ordered:
        part = _encode(name, dtype, array)
        offsets = [position, position + len(part)]
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": offsets}
        parts.append(part)
        position = offsets[1]
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return b"".join((_LENGTH.pack(len(text)), text, *parts))


def _encode(name: str, dtype: str, array: NDArray[Any]) -> bytes:
    with np.errstate(over="ignore"):
        narrowed = np.asarray(array).astype(_NUMPY_DTYPES[dtype])
    if np.isinf(narrowed).any() and not np.isinf(array).any():
        raise InvalidPromptError(
            f"{name} holds {np.abs(array).max():g}, which does not fit {dtype}; "
            f"the limit is {np.finfo(narrowed.dtype).max:g}",
            field=name,
            limit=float(np.finfo(narrowed.dtype).max),
        )
    return narrowed.tobytes()


def _split(data: bytes, max_header_bytes: int) -> tuple[bytes, memoryview]:
    if len(data) < _LENGTH.size:
        raise InvalidPromptError(
            f"the file has {len(data)} bytes, too few for the {_LENGTH.size} of a header length",
            field="header",
        )
    (length,) = _LENGTH.unpack_from(data)
    if length > max_header_bytes:
        is_json = data[_LENGTH.size : _LENGTH.size + 1] == b"{"
        raise InvalidPromptError(
            ("" if is_json else "this is not a safetensors file, or a damaged one: ")
            + f"the header has {length} bytes; the limit is {max_header_bytes}",
            field="header",
            limit=max_header_bytes,
        )
    start = _LENGTH.size + length
    if start > len(data):
        raise InvalidPromptError(
            f"the header has {length} bytes, but the file ends after {len(data)}", field="header"
        )
    return data[_LENGTH.size : start], memoryview(data)[start:]
