"""The JSON header of a safetensors file, checked property by property."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from prompt_store.errors import InvalidPromptError
from prompt_store.names import shown

_MAX_DIMENSIONS = 3
_MAX_EXTENT = 2**40  # of a dimension or an offset: far above any file, far below overflow
_MAX_FIELD_CHARACTERS = 64
_ENTRY_KEYS = {"dtype", "shape", "data_offsets"}


@dataclass(frozen=True)
class TensorSpec:
    """What the header says of one tensor; nothing of it is trusted before `arrays`."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def parse_header(
    text: bytes, *, dtypes: Sequence[str], names: Sequence[str]
) -> tuple[dict[str, TensorSpec], dict[str, str]]:
    """Parse a header into its tensors, in its order, and its metadata.

    Args:
        text: The JSON, padding included.
        dtypes: Those allowed.
        names: Tensor names allowed.

    Raises:
        InvalidPromptError: It is malformed, repeats a key, or names a tensor, dtype or property
            that is not allowed.
    """
    header = _parse_json(text)
    metadata = _metadata(header.pop("__metadata__", {}))
    return {name: _spec(name, entry, dtypes, names) for name, entry in header.items()}, metadata


def _parse_json(text: bytes) -> dict[str, Any]:
    if not text.startswith(b"{"):
        raise _bad_header(f"the header begins with {shown(text[:8])}, not with an opening brace")
    try:
        header = json.loads(text.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    except RecursionError as error:
        raise _bad_header("the header is nested too deeply") from error
    except ValueError as error:  # malformed JSON, wrong UTF-8, or an integer of over 4,300 digits
        raise _bad_header(f"the header is not JSON: {shown(str(error))}") from error
    return cast("dict[str, Any]", header)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _bad_header(f"the header repeats the key {shown(key)}")
        found[key] = value
    return found


def _no_constant(name: str) -> object:
    raise _bad_header(f"the header holds {name}, which is not JSON")


def _metadata(found: object) -> dict[str, str]:
    if not isinstance(found, dict):
        raise _bad_metadata(f"__metadata__ is {shown(found)}, not an object of strings")
    metadata = cast("dict[str, object]", found)
    for key, value in metadata.items():
        if not isinstance(value, str):
            raise _bad_metadata(f"metadata {shown(key)} is {shown(value)}, not a string")
        if not _is_unicode(key) or not _is_unicode(value):
            raise _bad_metadata(f"metadata {shown(key)} holds half of a surrogate pair")
    return cast("dict[str, str]", metadata)


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _spec(name: str, entry: object, dtypes: Sequence[str], names: Sequence[str]) -> TensorSpec:
    field = shown(name)
    if name not in names:
        raise InvalidPromptError(
            f"tensor {field} is not known; known are {', '.join(names)}",
            field=name[:_MAX_FIELD_CHARACTERS],
        )
    if not isinstance(entry, dict) or set(cast("dict[str, object]", entry)) != _ENTRY_KEYS:
        raise InvalidPromptError(
            f"tensor {field}: its header entry must have exactly dtype, shape and data_offsets",
            field=name,
        )
    properties = cast("dict[str, object]", entry)
    dtype = properties["dtype"]
    if not isinstance(dtype, str) or dtype not in dtypes:
        raise InvalidPromptError(
            f"tensor {field}: dtype {shown(dtype)} is not one of {', '.join(dtypes)}", field=name
        )
    shape = _extents(name, "shape", properties["shape"])
    offsets = _extents(name, "data_offsets", properties["data_offsets"])
    if len(shape) > _MAX_DIMENSIONS:
        raise InvalidPromptError(
            f"tensor {field}: shape {shown(list(shape))} has {len(shape)} dimensions; "
            f"the limit is {_MAX_DIMENSIONS}",
            field=name,
            limit=_MAX_DIMENSIONS,
        )
    if len(offsets) != 2 or offsets[0] > offsets[1]:  # noqa: PLR2004 - begin and end
        raise InvalidPromptError(
            f"tensor {field}: data_offsets {shown(list(offsets))} are not a begin and an end",
            field=name,
        )
    return TensorSpec(dtype, shape, *offsets)


def _extents(name: str, what: str, found: object) -> tuple[int, ...]:
    if not isinstance(found, list):
        raise InvalidPromptError(
            f"tensor {shown(name)}: {what} {shown(found)} is not a list of integers", field=name
        )
    extents = cast("list[object]", found)
    for extent in extents:
        if not isinstance(extent, int) or isinstance(extent, bool):
            raise InvalidPromptError(
                f"tensor {shown(name)}: {what} holds {shown(extent)}, not an integer", field=name
            )
        if not 0 <= extent <= _MAX_EXTENT:
            raise InvalidPromptError(
                f"tensor {shown(name)}: {what} holds {shown(extent)}, "
                f"which is not within 0 to {_MAX_EXTENT}",
                field=name,
                limit=_MAX_EXTENT,
            )
    return tuple(cast("list[int]", extents))


def _bad_header(message: str) -> InvalidPromptError:
    return InvalidPromptError(message, field="header")


def _bad_metadata(message: str) -> InvalidPromptError:
    return InvalidPromptError(message, field="__metadata__")
