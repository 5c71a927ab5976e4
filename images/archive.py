"""Archives of labelled images: zip, tar, parquet, or a folder with one folder per class."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from images.decoding import ImageLimits, decode_image
from images.errors import (
    ArchiveError,
    ArchiveFormatError,
    ImageDecodeError,
    InspectionStoppedError,
)
from images.folder_reader import read_folder
from images.labelled import ArchiveLimits, LabelledImage
from images.parquet_reader import read_parquet
from images.tar_reader import read_tar
from images.zip_reader import read_zip

__all__ = [
    "ArchiveFormat",
    "ArchiveLimits",
    "ArchiveSummary",
    "LabelledImage",
    "inspect_archive",
    "iter_labelled_images",
]

ArchiveFormat = Literal["zip", "tar", "parquet", "folder"]
MIN_CLASSES = 2
_READERS: dict[ArchiveFormat, Callable[[Path, ArchiveLimits], Iterator[LabelledImage]]] = {
    "zip": read_zip,
    "tar": read_tar,
    "parquet": read_parquet,
    "folder": read_folder,
}
_MAGIC: tuple[tuple[int, bytes, ArchiveFormat], ...] = (
    (0, b"PK\x03\x04", "zip"),
    (0, b"PK\x05\x06", "zip"),  # empty
    (0, b"PAR1", "parquet"),
    (0, b"\x1f\x8b", "tar"),  # gzip
    (0, b"BZh", "tar"),  # bzip2
    (0, b"\xfd7zXZ\x00", "tar"),  # xz
    (257, b"ustar", "tar"),
)
_MAGIC_BYTES = 512


@dataclass(frozen=True)
class ArchiveSummary:
    """What a valid archive holds.

    Attributes:
        format: How it is packed.
        classes: The labels, sorted; a class's place here is its index everywhere.
        counts: Images of each class.
    """

    format: ArchiveFormat
    classes: tuple[str, ...]
    counts: tuple[int, ...]


def iter_labelled_images(path: Path, limits: ArchiveLimits) -> Iterator[LabelledImage]:
    """Yield the images of an archive, in its own order, one in memory at a time.

    The archive is one folder per class, which one more folder may surround. Hidden files
    are left out. The images are not decoded.

    Raises:
        ArchiveError: Damaged, dangerous or over a limit. Earlier images have been yielded.
    """
    return _READERS[_detect(path, limits)](path, limits)


def inspect_archive(
    path: Path,
    limits: ArchiveLimits,
    image_limits: ImageLimits,
    should_stop: Callable[[], bool] = lambda: False,
) -> ArchiveSummary:
    """Read a whole archive, decode every image, and say what it holds.

    Args:
        path: The archive, or a folder.
        limits: Of the archive.
        image_limits: Of each image.
        should_stop: Asked before each image.

    Raises:
        ArchiveError: As `iter_labelled_images`, or an entry is not an image, or there are
            fewer than two classes, or more pixels in all than allowed.
        InspectionStoppedError: `should_stop` returned true.
    """
    counts: Counter[str] = Counter()
    num_pixels = 0
    for image in iter_labelled_images(path, limits):
        if should_stop():
            raise InspectionStoppedError(f"stopped after {counts.total()} images")
        try:
            decoded = decode_image(image.data, image_limits)
        except ImageDecodeError as error:
            raise ArchiveError(f"entry {image.name!r}: {error}") from error
        num_pixels += decoded.width * decoded.height
        if num_pixels > limits.max_total_pixels:
            raise ArchiveError(f"more than {limits.max_total_pixels} pixels in all its images")
        counts[image.label] += 1
    if len(counts) < MIN_CLASSES:
        raise ArchiveError(f"classes {sorted(counts)}: at least {MIN_CLASSES} are needed")
    classes = tuple(sorted(counts))
    return ArchiveSummary(_detect(path, limits), classes, tuple(counts[name] for name in classes))


def _detect(path: Path, limits: ArchiveLimits) -> ArchiveFormat:
    if path.is_dir():
        return "folder"
    size = path.stat().st_size
    if size > limits.max_bytes:
        raise ArchiveError(f"archive has {size} bytes, limit {limits.max_bytes}")
    with path.open("rb") as file:
        start = file.read(_MAGIC_BYTES)
    for offset, magic, name in _MAGIC:
        if start[offset:].startswith(magic):
            return name
    raise ArchiveFormatError("not a zip, tar or parquet file")
