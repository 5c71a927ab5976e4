"""The rows of a parquet file as Hugging Face datasets write it, read with pyarrow.

For `images.parquet_reader`, which runs this in a process of its own.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from images.errors import ArchiveError
from images.labelled import (
    ArchiveLimits,
    Budget,
    LabelledImage,
    check_classes,
    check_label,
    is_readable,
)

# Bounds on the file's own description, far above what real files need.
_MAX_STRING_BYTES = 10_000_000
_MAX_LIST_ITEMS = 10_000
_MAX_SCHEMA_DEPTH = 16
_BATCH_ROWS = 16
# pyarrow is untyped: `Any` below stands for its schemas, types and values.


def read_rows(path: Path, limits: ArchiveLimits) -> Iterator[LabelledImage]:
    """Yield the images of a parquet file, row by row.

    The column `image` is a struct with the field `bytes`, or binary itself; `label` is a
    string, or an integer, named by the ClassLabel feature in the file's metadata if present.

    Raises:
        ArchiveError: Damaged, other columns, missing values or a limit exceeded.
    """
    try:
        with pq.ParquetFile(
            path,
            pre_buffer=False,
            thrift_string_size_limit=_MAX_STRING_BYTES,
            thrift_container_size_limit=_MAX_LIST_ITEMS,
            schema_depth_limit=_MAX_SCHEMA_DEPTH,
            arrow_extensions_enabled=False,
        ) as file:
            _check_claims(file.metadata, limits)
            yield from _read_rows(file, limits)
    except (pa.ArrowException, OSError, UnicodeError, MemoryError) as error:
        raise ArchiveError(f"parquet file cannot be read: {error}") from error


def _check_claims(metadata: Any, limits: ArchiveLimits) -> None:
    """Refuse an honest file that is too large before any of it is unpacked."""
    if metadata.num_rows > limits.max_entries:
        raise ArchiveError(f"{metadata.num_rows} rows, limit {limits.max_entries}")
    claimed = sum(
        metadata.row_group(index).total_byte_size for index in range(metadata.num_row_groups)
    )
    if claimed > limits.max_total_bytes:
        raise ArchiveError(f"{claimed} bytes unpacked, limit {limits.max_total_bytes}")


def _read_rows(file: pq.ParquetFile, limits: ArchiveLimits) -> Iterator[LabelledImage]:
    image_column = _image_column(file.schema_arrow)
    names = _label_names(file.schema_arrow)
    budget = Budget(limits)
    labels: set[str] = set()
    row = 0
    for batch in file.iter_batches(
        batch_size=_BATCH_ROWS, columns=[image_column, "label"], use_threads=False
    ):
        images = batch.column("image")
        if isinstance(images, pa.StructArray):
            images = images.field("bytes")
        for data, value in zip(images, batch.column("label"), strict=True):
            name = f"row {row}"
            row += 1
            budget.add_entry()
            label = _label(value.as_py(), names, name, limits)
            labels.add(label)
            check_classes(len(labels), limits)
            yield LabelledImage(name, label, _bytes(data, name, budget))


def _bytes(data: Any, name: str, budget: Budget) -> bytes:
    buffer = data.as_buffer() if data.is_valid else None
    if buffer is None:
        raise ArchiveError(f"{name}: no image bytes (a path alone is not enough)")
    budget.check_image(name, buffer.size)
    budget.add_bytes(buffer.size)
    return buffer.to_pybytes()


def _image_column(schema: Any) -> str:
    for column in ("image", "label"):
        if schema.names.count(column) != 1:
            raise ArchiveError(f"columns {schema.names[:10]}: exactly one {column!r} is needed")
    image, label = schema.field("image").type, schema.field("label").type
    if not (pa.types.is_integer(label) or _is_string(label)):
        raise ArchiveError(f"column 'label' is {label}, expected integers or strings")
    if _is_binary(image):
        return "image"
    if (
        pa.types.is_struct(image)
        and image.get_field_index("bytes") >= 0
        and _is_binary(image.field("bytes").type)
    ):
        return "image.bytes"
    raise ArchiveError(f"column 'image' is {image}, expected binary or a struct with 'bytes'")


def _is_binary(type_: Any) -> bool:
    return pa.types.is_binary(type_) or pa.types.is_large_binary(type_)


def _is_string(type_: Any) -> bool:
    return pa.types.is_string(type_) or pa.types.is_large_string(type_)


def _label_names(schema: Any) -> Sequence[str] | None:
    """Return the names of the `label` column's ClassLabel feature, None without one."""
    text = (schema.metadata or {}).get(b"huggingface")
    if text is None:
        return None
    try:
        names = json.loads(text)["info"]["features"]["label"].get("names")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ArchiveError("the 'huggingface' metadata does not describe 'label'") from error
    if names is None:
        return None
    if not (isinstance(names, list) and all(isinstance(each, str) for each in names)):
        raise ArchiveError("the ClassLabel names of 'label' are not a list of strings")
    if len(set(names)) != len(names):
        raise ArchiveError("the ClassLabel names of 'label' repeat a name")
    return names


def _label(
    value: int | str | None, names: Sequence[str] | None, name: str, limits: ArchiveLimits
) -> str:
    if value is None:
        raise ArchiveError(f"{name}: no label")
    if isinstance(value, int) and names is not None:
        if not 0 <= value < len(names):
            raise ArchiveError(f"{name}: label {value} is not one of {len(names)} classes")
        value = names[value]
    label = str(value)
    if not label or not is_readable(label):
        raise ArchiveError(f"{name}: label {label[:64]!r} is empty or unreadable")
    return check_label(label, name, limits)
