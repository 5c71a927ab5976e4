"""Labelled images, the limits on an archive of them, and where its entries belong."""

import re
import unicodedata
from dataclasses import dataclass, field

from images.errors import ArchiveError

_DRIVE = re.compile(r"^[A-Za-z]:")
# Surrogates stand for bytes that are not UTF-8.
_UNREADABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_JUNK = ("__MACOSX", "Thumbs.db", "desktop.ini")
# class/image, or with one folder around all classes.
_DEPTH, _ROOTED_DEPTH = 2, 3


@dataclass(frozen=True)
class ArchiveLimits:
    """How large an archive of labelled images may be.

    Attributes:
        max_bytes: Size of the archive's file.
        max_entries: Entries of any kind, or rows.
        max_image_bytes: Size of one image's file.
        max_total_bytes: Sum of what is unpacked, as counted, not as the headers claim.
        max_total_pixels: Sum of what is decoded, which may be a thousand times as much.
        max_classes: Different labels.
        max_class_chars: Length of a label; artifacts hold no longer ones.
        max_name_chars: Length of an entry's whole name.
        max_reader_memory_bytes: Address space of the process that reads a parquet file.
    """

    max_bytes: int = 2_000_000_000
    max_entries: int = 200_000
    max_image_bytes: int = 20_000_000
    max_total_bytes: int = 4_000_000_000
    max_total_pixels: int = 100_000_000_000
    max_classes: int = 10_000
    max_class_chars: int = 256
    max_name_chars: int = 512
    max_reader_memory_bytes: int = 3_000_000_000


@dataclass(frozen=True)
class LabelledImage:
    """The encoded bytes of an image and its class.

    Attributes:
        name: Where it was found: the entry's path or the row.
        label: The class.
        data: The image file's bytes, not yet decoded.
    """

    name: str
    label: str
    data: bytes


def is_hidden(part: str) -> bool:
    """Whether a file or folder of this name is what systems leave behind, not an image."""
    return part.startswith(".") or part in _JUNK


def is_readable(name: str) -> bool:
    """Whether a name is free of control characters and of bytes that are not UTF-8."""
    return _UNREADABLE.search(name) is None


def entry_parts(name: str, limits: ArchiveLimits) -> tuple[str, ...] | None:
    """Return the parts of an entry's path, None if it is hidden (`.DS_Store`, `__MACOSX`).

    Raises:
        ArchiveError: The path is absolute, leaves the archive or is not plain text.
    """
    if len(name) > limits.max_name_chars:
        raise ArchiveError(
            f"entry {name[:64]!r}…: name of {len(name)} characters, limit {limits.max_name_chars}"
        )
    if not is_readable(name):
        raise ArchiveError(f"entry {name!r}: control characters or not UTF-8")
    if name.startswith("/") or _DRIVE.match(name):
        raise ArchiveError(f"entry {name!r}: absolute path")
    if "\\" in name:
        raise ArchiveError(f"entry {name!r}: backslash; folders are separated by '/'")
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if ".." in parts:
        raise ArchiveError(f"entry {name!r}: '..' leaves the archive")
    if any(is_hidden(part) for part in parts):
        return None
    # macOS writes accents apart from their letters: one name, two spellings.
    return tuple(unicodedata.normalize("NFC", part) for part in parts)


@dataclass
class Layout:
    """Finds each entry's label; the first entry decides whether a folder surrounds all.

    Attributes:
        limits: Of the archive.
    """

    limits: ArchiveLimits
    _seen: set[tuple[str, ...]] = field(default_factory=set[tuple[str, ...]])
    _labels: set[str] = field(default_factory=set[str])
    _root: tuple[str, ...] | None = None

    def label(self, parts: tuple[str, ...]) -> str:
        """Return the label of the file at `parts`.

        Raises:
            ArchiveError: It lies elsewhere than the first one, repeats a name, or adds a
                class above the limit.
        """
        name = "/".join(parts)
        if self._root is None:
            if len(parts) not in (_DEPTH, _ROOTED_DEPTH):
                raise ArchiveError(f"entry {name!r}: expected class/image or folder/class/image")
            self._root = parts[:-_DEPTH]
        depth = len(self._root)
        if parts[:depth] != self._root or len(parts) != depth + _DEPTH:
            expected = "/".join((*self._root, "class", "image"))
            raise ArchiveError(f"entry {name!r}: expected {expected}, as the first entry has")
        if parts in self._seen:
            raise ArchiveError(f"entry {name!r}: the name occurs twice")
        self._seen.add(parts)
        self._labels.add(check_label(parts[depth], f"entry {name[:64]!r}", self.limits))
        check_classes(len(self._labels), self.limits)
        return parts[depth]


def check_label(label: str, where: str, limits: ArchiveLimits) -> str:
    """Return the label; `ArchiveError` if it is longer than allowed, naming what has it."""
    if len(label) > limits.max_class_chars:
        raise ArchiveError(
            f"{where}: class of {len(label)} characters, limit {limits.max_class_chars}"
        )
    return label


def check_classes(count: int, limits: ArchiveLimits) -> None:
    """Raise `ArchiveError` when there are more classes than allowed."""
    if count > limits.max_classes:
        raise ArchiveError(f"more than {limits.max_classes} classes")


@dataclass
class Budget:
    """Counts the entries and the bytes that an archive really holds.

    Attributes:
        limits: Of the archive.
    """

    limits: ArchiveLimits
    _entries: int = 0
    _bytes: int = 0

    def add_entry(self) -> None:
        """Count an entry; `ArchiveError` above the limit."""
        self._entries += 1
        if self._entries > self.limits.max_entries:
            raise ArchiveError(f"more than {self.limits.max_entries} entries")

    def add_bytes(self, count: int) -> None:
        """Count unpacked bytes; `ArchiveError` above the limit."""
        self._bytes += count
        if self._bytes > self.limits.max_total_bytes:
            raise ArchiveError(f"more than {self.limits.max_total_bytes} bytes unpacked")

    def check_image(self, name: str, size: int) -> None:
        """Raise `ArchiveError` when one image's file is empty or too large."""
        if size > self.limits.max_image_bytes:
            raise ArchiveError(
                f"entry {name!r}: more than {self.limits.max_image_bytes} bytes for one image"
            )
        if size == 0:
            raise ArchiveError(f"entry {name!r}: empty file")
