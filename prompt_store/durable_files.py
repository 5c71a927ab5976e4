"""Files that exist whole or not at all, and are on the disk once acknowledged.

`object_store` (behind obstore) links its temporary file into place without an fsync, so that after
a power cut an acknowledged file could be missing or, worse, there but empty. Here the order is:
write a temporary file, fsync it, link it to its name (which fails if the name is taken), then fsync
every folder from the file up to the root.
"""

import os
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

TEMPORARY_FOLDER = ".tmp"
_READ_ONLY = 0o444


def create_file(root: Path, relative: str, write: Callable[[BinaryIO], object]) -> bool:
    """Create `root/relative` with what `write` writes, unless it exists.

    When this returns, the file (ours, or the one that was there) survives a power cut.

    Args:
        root: An existing folder; everything below it must be on one file system.
        relative: Path below `root`, checked by the caller.
        write: Writes the content to the open file that it is given.

    Returns:
        True if this call created the file, False if it existed; it is then left as it was.

    Raises:
        OSError: The disk is full, or the file system refuses; nothing becomes visible.
    """
    target = root / relative
    created = False
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        created = _write_and_link(root, target, write)
    sync_folders(root, target.parent)
    return created


def replace_file(root: Path, relative: str, write: Callable[[BinaryIO], object]) -> None:
    """Put what `write` writes in the place of an existing file; otherwise as `create_file`."""
    target = root / relative
    with _written(root, write) as temporary:
        temporary.replace(target)
    sync_folders(root, target.parent)


def sync_folders(root: Path, folder: Path) -> None:
    """Put the entries of `folder` and of every folder above it up to `root` on the disk.

    All of them, not only new ones: another writer may have made one and not synced it yet.
    """
    while True:
        _sync(folder)
        if folder == root:
            return
        folder = folder.parent


def sync_path(root: Path) -> None:
    """Put `root`, and the entries that lead to it on its file system, on the disk.

    A folder that this process may not read holds no entry that it has made.
    """
    root = root.resolve()
    device = root.stat().st_dev
    _sync(root)
    for folder in root.parents:
        if folder.stat().st_dev != device:
            return
        with suppress(PermissionError):
            _sync(folder)


def remove_stale_temporaries(root: Path, *, older_than_unix_s: float) -> int:
    """Remove temporary files that writers killed long ago have left; return how many.

    Args:
        root: The folder given to `create_file`.
        older_than_unix_s: Files modified after this time, in seconds since the epoch, are kept:
            their writers may be alive.
    """
    removed = 0
    for path in (root / TEMPORARY_FOLDER).glob("put-*"):
        with suppress(FileNotFoundError):  # its writer has just finished
            if path.stat().st_mtime < older_than_unix_s:
                path.unlink()
                removed += 1
    return removed


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_and_link(root: Path, target: Path, write: Callable[[BinaryIO], object]) -> bool:
    with _written(root, write) as temporary:
        try:
            os.link(temporary, target)
        except FileExistsError:
            return False
    return True


@contextmanager
def _written(root: Path, write: Callable[[BinaryIO], object]) -> Generator[Path]:
    """A temporary file with what `write` writes, on the disk; it may be moved away."""
    folder = root / TEMPORARY_FOLDER
    folder.mkdir(exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix="put-", dir=folder)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            write(file)
            file.flush()
            os.fchmod(file.fileno(), _READ_ONLY)
            os.fsync(file.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)
