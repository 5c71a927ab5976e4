"""Checks that prompt files and artifacts share."""

import json
import re
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from prompt_store.errors import InvalidPromptError
from prompt_store.names import DIGEST_PATTERN, shown

MAX_CLASSES = 10_000
MAX_CLASS_CHARACTERS = 256


def check_finite(name: str, array: NDArray[Any]) -> None:
    """Raise `InvalidPromptError` naming the first value that is NaN or infinite."""
    finite = np.isfinite(array)
    if not finite.all():
        place = np.unravel_index(int(np.argmin(finite)), array.shape)
        raise InvalidPromptError(
            f"{name}{[int(i) for i in place]} is {array[place]}; every value must be finite",
            field=name,
        )


def check_norm(name: str, array: NDArray[Any], max_norm: float) -> None:
    """Raise `InvalidPromptError` if a row (last dimension) has a Euclidean norm above the limit."""
    rows = array.reshape(-1, array.shape[-1]) if array.size else array.reshape(0, 1)
    squares = np.einsum("ij,ij->i", rows, rows, dtype=np.float64)  # shape: (rows,)
    norm = float(np.sqrt(squares.max(initial=0.0)))
    if norm > max_norm:
        raise InvalidPromptError(
            f"{name}: row {int(np.argmax(squares))} has norm {norm:g}; the limit is {max_norm:g}",
            field=name,
            limit=max_norm,
        )


def check_shape(name: str, shape: tuple[int, ...], expected: tuple[int, ...], why: str) -> None:
    """Raise `InvalidPromptError` naming both shapes unless they are equal."""
    if shape != expected:
        raise InvalidPromptError(
            f"{name} has shape {list(shape)}; expected {list(expected)}, {why}", field=name
        )


def metadata_digest(metadata: Mapping[str, str], key: str) -> str:
    """Return `metadata[key]`, which must be there and look like `sha256:<hex>`."""
    found = metadata.get(key)
    if found is None:
        raise InvalidPromptError(f"metadata {key} is missing", field=key)
    if not re.fullmatch(DIGEST_PATTERN, found):
        raise InvalidPromptError(
            f"metadata {key} is {shown(found)}; expected sha256: and 64 hexadecimal digits",
            field=key,
        )
    return found


def metadata_json_list(metadata: Mapping[str, str], key: str) -> list[object]:
    """Return the JSON list in `metadata[key]`; raise `InvalidPromptError` if it is none."""
    try:
        found: object = json.loads(metadata[key])
    except (ValueError, RecursionError) as error:
        raise InvalidPromptError(
            f"metadata {key} is {shown(metadata[key])}, not a JSON list", field=key
        ) from error
    if not isinstance(found, list):
        raise InvalidPromptError(f"metadata {key} is {shown(found)}, not a list", field=key)
    return cast("list[object]", found)


def metadata_classes(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """Return the class names in `metadata["classes"]`: 1 to 10,000, distinct, 1 to 256 long."""
    found = metadata_json_list(metadata, "classes")
    if not 1 <= len(found) <= MAX_CLASSES:
        raise InvalidPromptError(
            f"classes has {len(found)} names; it must have 1 to {MAX_CLASSES}",
            field="classes",
            limit=MAX_CLASSES,
        )
    classes: list[str] = []
    for name in found:
        if not isinstance(name, str) or not 1 <= len(name) <= MAX_CLASS_CHARACTERS:
            raise InvalidPromptError(
                f"classes holds {shown(name)}, not a string of 1 to {MAX_CLASS_CHARACTERS} "
                "characters",
                field="classes",
                limit=MAX_CLASS_CHARACTERS,
            )
        classes.append(name)
    _check_distinct(classes)
    return tuple(classes)


def _check_distinct(classes: list[str]) -> None:
    seen: set[str] = set()
    for name in classes:
        if name in seen:
            raise InvalidPromptError(f"classes repeats {shown(name)}", field="classes")
        seen.add(name)
        if any("\ud800" <= character <= "\udfff" for character in name):
            raise InvalidPromptError(
                f"class {shown(name)} holds half of a surrogate pair", field="classes"
            )
