"""Labelled images out of a zip archive, nothing in it trusted."""

import io
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from images.errors import ArchiveError
from images.labelled import ArchiveLimits, Budget, LabelledImage, Layout, entry_parts

# zipfile inflates these two piece by piece; bzip2 and LZMA it would expand without a bound.
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_DIRECTORY_ENTRY = b"PK\x01\x02"
_ENCRYPTED = 0x1
# What zipfile may read in search of the end record, whatever the limits.
_TAIL_BYTES = 1 << 17


def read_zip(path: Path, limits: ArchiveLimits) -> Iterator[LabelledImage]:
    """Yield the images of a zip archive in its own order.

    Raises:
        ArchiveError: Damaged, dangerous or over a limit; the message names the entry.
    """
    try:
        with path.open("rb") as file:
            guard = _DirectoryGuard(file, limits)
            with zipfile.ZipFile(guard) as archive:
                guard.opened = True
                yield from _read_entries(archive, limits)
    except (
        zipfile.BadZipFile,
        NotImplementedError,
        EOFError,
        OSError,
        OverflowError,
        ValueError,
        struct.error,
        zlib.error,
    ) as error:
        if isinstance(error, ArchiveError):
            raise
        raise ArchiveError(f"zip archive cannot be read: {error}") from error


class _DirectoryGuard(io.RawIOBase):
    """A file whose directory of entries is refused before zipfile makes objects of it.

    zipfile reads the directory in one piece, as long as the archive says, and only then can
    its entries be counted: millions of them would take gigabytes.
    """

    def __init__(self, file: BinaryIO, limits: ArchiveLimits) -> None:
        super().__init__()
        self._file = file
        self._limits = limits
        self.opened = False

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def read(self, size: int = -1) -> bytes:
        if self.opened:
            return self._file.read(size)
        limit = max(self._limits.max_entries * self._limits.max_name_chars, _TAIL_BYTES)
        if size > limit:
            raise ArchiveError(f"zip directory of {size} bytes, limit {limit}")
        data = self._file.read(size)
        if data.count(_DIRECTORY_ENTRY) > self._limits.max_entries:
            raise ArchiveError(f"more than {self._limits.max_entries} entries")
        return data


def _read_entries(archive: zipfile.ZipFile, limits: ArchiveLimits) -> Iterator[LabelledImage]:
    layout, budget = Layout(limits), Budget(limits)
    for entry in archive.infolist():
        budget.add_entry()
        # zipfile cuts names at a NUL: check what is written.
        parts = entry_parts(entry.orig_filename, limits)
        _check_kind(entry)
        if parts is None or entry.is_dir():
            continue
        label = layout.label(parts)
        with archive.open(entry) as member:
            data = member.read(limits.max_image_bytes + 1)
        budget.check_image(entry.filename, len(data))
        budget.add_bytes(len(data))
        yield LabelledImage("/".join(parts), label, data)


def _check_kind(entry: zipfile.ZipInfo) -> None:
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if stat.S_ISLNK(kind):
        raise ArchiveError(f"entry {entry.filename!r}: symbolic link")
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise ArchiveError(f"entry {entry.filename!r}: neither a file nor a folder")
    if entry.flag_bits & _ENCRYPTED:
        raise ArchiveError(f"entry {entry.filename!r}: encrypted")
    if entry.compress_type not in _METHODS:
        raise ArchiveError(
            f"entry {entry.filename!r}: compression method {entry.compress_type}, "
            "only stored and deflated are read"
        )
