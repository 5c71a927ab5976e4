"""Input tensors of an inference request, as JSON lists or as bytes behind the JSON."""

import binascii
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from service.oip.errors import bad_infer

MAX_DIMENSIONS = 8
MAX_DIMENSION = (1 << 31) - 1
FP32_BYTES = 4
_LENGTH = struct.Struct("<I")


@dataclass(frozen=True)
class InputTensor:
    """One named input; its data is not yet looked into.

    Attributes:
        name: As the request has it.
        datatype: "BYTES", "FP32", ...
        shape: Dimensions, none negative.
        data: A JSON list, or the tensor's bytes.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: list[Any] | memoryview


class BinaryData:
    """What follows the JSON, handed out from the front."""

    def __init__(self, data: memoryview) -> None:
        self._left = data

    def take(self, name: str, size: object) -> memoryview:
        """Return the next `size` bytes; 400 if there are not as many."""
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= len(self._left):
            raise bad_infer(
                f"input {name!r} has binary_data_size {str(size)[:32]}; "
                f"{len(self._left)} bytes are left of the body"
            )
        taken, self._left = self._left[:size], self._left[size:]
        return taken

    def finish(self) -> None:
        """Refuse bytes that belong to no tensor."""
        if len(self._left):
            raise bad_infer(f"{len(self._left)} bytes behind the JSON belong to no input")


def read_input(item: object, binary: BinaryData) -> InputTensor:
    """Read one element of `inputs`; 400 if it is not a tensor."""
    if not isinstance(item, dict):
        raise bad_infer("an element of inputs is not an object")
    name, datatype, shape = item.get("name"), item.get("datatype"), item.get("shape")
    if not isinstance(name, str) or not isinstance(datatype, str):
        raise bad_infer("an element of inputs lacks a name or a datatype")
    name = name[:64]
    if not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS or not all(map(_is_size, shape)):
        raise bad_infer(
            f"input {name!r} has shape {str(shape)[:64]}; expected a list of at most "
            f"{MAX_DIMENSIONS} whole numbers from 0 to {MAX_DIMENSION}"
        )
    parameters = item.get("parameters", {})
    size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
    data = item.get("data") if size is None else binary.take(name, size)
    if not isinstance(data, list | memoryview):
        raise bad_infer(f"input {name!r} has neither data nor binary_data_size")
    return InputTensor(name, datatype, tuple(shape), data)


def encoded_images(tensor: InputTensor) -> list[bytes]:
    """Return the elements of a BYTES tensor [N]; in JSON each one is base64.

    Raises:
        ProblemError: 400, another datatype or shape, or the data do not fit them.
    """
    _check_signature(tensor, "BYTES", len(tensor.shape) == 1, "[N]")
    if isinstance(tensor.data, memoryview):
        images = list(_elements(tensor.name, tensor.data, tensor.shape[0]))
    else:
        images = [_from_base64(tensor.name, i, text) for i, text in enumerate(tensor.data)]
    if len(images) != tensor.shape[0]:
        raise bad_infer(
            f"input {tensor.name!r} has {len(images)} elements, its shape says {tensor.shape[0]}"
        )
    return images


def normalised_pixels(tensor: InputTensor, image_size_px: int) -> list[np.ndarray]:
    """Return the rows (3, H, W) of an FP32 tensor [N, 3, H, W].

    Raises:
        ProblemError: 400, another datatype or shape, the data do not fit them, or a value is not
            finite.
    """
    row = (3, image_size_px, image_size_px)
    fits = len(tensor.shape) == 4 and tensor.shape[1:] == row  # noqa: PLR2004
    _check_signature(tensor, "FP32", fits, f"[N, 3, {image_size_px}, {image_size_px}]")
    expected = tensor.shape[0] * 3 * image_size_px * image_size_px
    if isinstance(tensor.data, memoryview):
        if len(tensor.data) != FP32_BYTES * expected:
            raise bad_infer(
                f"input {tensor.name!r} has {len(tensor.data)} bytes, its shape says "
                f"{FP32_BYTES * expected}"
            )
        values = np.frombuffer(tensor.data, "<f4")
    else:
        values = _from_numbers(tensor.name, tensor.data)
        if values.size != expected:
            raise bad_infer(
                f"input {tensor.name!r} has {values.size} elements, its shape says {expected}"
            )
    rows = values.reshape(tensor.shape)
    finite = np.isfinite(rows).all(axis=(1, 2, 3))
    if not finite.all():
        raise bad_infer(
            f"row {int(np.argmin(finite))} of input {tensor.name!r} has a value that is not finite"
        )
    return list(rows)


def _check_signature(tensor: InputTensor, datatype: str, fits: bool, shape: str) -> None:
    if tensor.datatype != datatype or not fits:
        raise bad_infer(
            f"input {tensor.name!r} is {tensor.datatype[:16]} {list(tensor.shape)}; "
            f"expected {datatype} {shape}"
        )


def _elements(name: str, data: memoryview, count: int) -> Iterator[bytes]:
    """Read elements that are each preceded by their length, as unsigned 32-bit little-endian."""
    offset = 0
    for _ in range(count):
        start = offset + _LENGTH.size
        if start > len(data):
            raise bad_infer(f"input {name!r} ends within its elements")
        offset = start + _LENGTH.unpack_from(data, offset)[0]
        if offset > len(data):
            raise bad_infer(f"an element of input {name!r} is longer than what is left of it")
        yield bytes(data[start:offset])
    if offset != len(data):
        raise bad_infer(f"input {name!r} has {len(data) - offset} bytes more than its elements")


def _from_base64(name: str, index: int, text: object) -> bytes:
    if isinstance(text, str):
        try:
            return binascii.a2b_base64(text, strict_mode=True)
        except (binascii.Error, ValueError):
            pass  # answered below
    raise bad_infer(f"row {index} of input {name!r} is not base64")


def _from_numbers(name: str, data: list[Any]) -> np.ndarray:
    """Return a flat or nested list of numbers as float32, flat."""
    refused = bad_infer(f"input {name!r} is not an array of numbers")
    try:
        values = np.array(data)
    except ValueError as error:
        raise refused from error
    if values.dtype.kind not in "iuf":  # told a type, NumPy would read texts and truth as numbers
        raise refused
    with np.errstate(over="ignore"):  # becomes infinite, which is refused
        return values.astype(np.float32).ravel()


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_DIMENSION
