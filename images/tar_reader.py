"""Labelled images out of a tar archive (plain, gzip, bzip2, xz), nothing in it trusted."""

import bz2
import gzip
import io
import lzma
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from images.errors import ArchiveError
from images.labelled import ArchiveLimits, Budget, LabelledImage, Layout, entry_parts

# A member's headers, long names and attributes included. tarfile holds them in memory.
MAX_HEADER_BYTES = 65_536
MAX_XZ_MEMORY_BYTES = 128 * 1024 * 1024
_CHUNK_BYTES = 1 << 16


def read_tar(path: Path, limits: ArchiveLimits) -> Iterator[LabelledImage]:
    """Yield the images of a tar archive in its own order.

    Raises:
        ArchiveError: Damaged, dangerous or over a limit; the message names the entry.
    """
    try:
        with path.open("rb") as file, _decompressed(file) as plain:
            yield from _read_members(_Guard(plain, limits), limits)
    except (
        tarfile.TarError,
        lzma.LZMAError,
        zlib.error,
        EOFError,
        OSError,
        OverflowError,
        RecursionError,
        ValueError,
    ) as error:
        if isinstance(error, ArchiveError):
            raise
        raise ArchiveError(f"tar archive cannot be read: {error}") from error


def _decompressed(file: io.BufferedIOBase) -> io.BufferedIOBase:
    magic = file.read(6)
    file.seek(0)
    if magic.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=file)
    if magic.startswith(b"BZh"):
        return bz2.BZ2File(file)
    if magic.startswith(b"\xfd7zXZ\x00"):
        return io.BufferedReader(_XzFile(file))
    return file


class _XzFile(io.RawIOBase):
    """Like `lzma.LZMAFile`, with a limit on the memory that the stream may ask for."""

    def __init__(self, file: io.BufferedIOBase) -> None:
        super().__init__()
        self._file = file
        self._stream = self._new_stream()

    @staticmethod
    def _new_stream() -> lzma.LZMADecompressor:
        return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MAX_XZ_MEMORY_BYTES)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview, /) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        while True:
            if self._stream.eof:
                packed = self._after_stream()
                if not packed:
                    return 0
                self._stream = self._new_stream()
            else:
                packed = self._file.read(_CHUNK_BYTES) if self._stream.needs_input else b""
                if not packed and self._stream.needs_input:
                    raise EOFError("xz stream ends too early")
            data = self._stream.decompress(packed, len(buffer))
            if data:
                buffer[: len(data)] = data
                return len(data)

    def _after_stream(self) -> bytes:
        """Return the start of the next stream, past the zeros between two; empty at the end."""
        packed = self._stream.unused_data
        while not packed.strip(b"\0"):
            packed = self._file.read(_CHUNK_BYTES)
            if not packed:
                return b""
        return packed.lstrip(b"\0")


class _Guard(io.RawIOBase):
    """An unpacked tar, read forwards, that counts what is read and refuses large reads.

    `tarfile` reads attributes and long names in one piece, as large as the header says.
    """

    def __init__(self, file: io.BufferedIOBase, limits: ArchiveLimits) -> None:
        super().__init__()
        self._file = file
        self._position = 0
        self._allowance = MAX_HEADER_BYTES
        self._budget = Budget(limits)
        self.last_read = b""

    def allow(self, count: int) -> None:
        """Let the next reads take `count` bytes together."""
        self._allowance = count

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= self._allowance:
            raise ArchiveError(f"header larger than {MAX_HEADER_BYTES} bytes near {self._position}")
        self._allowance -= size
        self.last_read = self._advance(size)
        return self.last_read

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence != io.SEEK_SET or offset < self._position:
            raise ArchiveError(f"tar archive refers back to byte {offset}")
        while self._position < offset:
            if not self._advance(min(offset - self._position, _CHUNK_BYTES)):
                raise ArchiveError(f"tar archive ends at byte {self._position}, inside an entry")
        return self._position

    def _advance(self, size: int) -> bytes:
        self._budget.add_bytes(size)
        data = self._file.read(size)
        self._position += len(data)
        return data


def _read_members(guard: _Guard, limits: ArchiveLimits) -> Iterator[LabelledImage]:
    layout, budget = Layout(limits), Budget(limits)
    with tarfile.open(fileobj=guard, mode="r:") as archive:
        while (member := _next(archive, guard)) is not None:
            budget.add_entry()
            parts = entry_parts(member.name, limits)
            if member.isdir():
                continue
            if not member.isreg() or member.issparse():
                raise ArchiveError(f"entry {member.name!r}: a link or not a plain file")
            if parts is None:
                continue
            label = layout.label(parts)
            budget.check_image(member.name, member.size)
            yield LabelledImage("/".join(parts), label, _read(archive, member, guard))


def _next(archive: tarfile.TarFile, guard: _Guard) -> tarfile.TarInfo | None:
    guard.allow(MAX_HEADER_BYTES)
    member = archive.next()
    # What tarfile remembers of earlier members would grow with the archive.
    archive.members = []  # pyright: ignore[reportAttributeAccessIssue]
    archive.pax_headers = {}
    if member is None and guard.last_read.strip(b"\0"):
        raise ArchiveError(f"tar archive is damaged near byte {guard.tell()}")
    if member is None and not guard.last_read:
        raise ArchiveError(f"tar archive ends at byte {guard.tell()} without an end marker")
    return member


def _read(archive: tarfile.TarFile, member: tarfile.TarInfo, guard: _Guard) -> bytes:
    guard.allow(member.size)
    file = archive.extractfile(member)
    data = b"" if file is None else file.read(member.size)
    if len(data) != member.size:
        raise ArchiveError(f"entry {member.name!r}: {len(data)} bytes of {member.size}")
    return data
