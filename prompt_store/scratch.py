"""Folders for temporary files that do not outlive the process that made them.

Whoever makes one holds a lock (flock) on it, which the system drops when the process ends, however
it ends. So a later start tells what was left behind from what is in use, by any process that shares
the parent folder.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = "hgprompt-tmp-"


@contextmanager
def scratch_folder(parent: Path | None = None) -> Generator[Path]:
    """Make a folder, private to the user, and remove it with all that is in it.

    Args:
        parent: Where; by default in the system's folder for temporary files.

    Raises:
        OSError: It cannot be made, for instance because the disk is full.
    """
    folder, lock = _locked_folder(parent)
    try:
        yield folder
    finally:
        try:
            shutil.rmtree(folder)
        finally:
            os.close(lock)


def remove_leftovers(parent: Path | None = None) -> None:
    """Remove the scratch folders of processes that were killed; call it when a process starts.

    Args:
        parent: Where they were made; by default in the system's folder for temporary files.
    """
    with suppress(OSError):  # there is no such folder
        for folder in list((parent or _system_folder()).glob(f"{PREFIX}*")):
            with suppress(OSError):  # in use, or another user's, or removed at this moment
                lock = _lock(folder)
                try:
                    shutil.rmtree(folder)
                finally:
                    os.close(lock)


def _system_folder() -> Path:
    """The folder for temporary files, also on a full disk, which `tempfile` would pass over."""
    named = Path(os.environ.get("TMPDIR", ""))
    return named if named.is_absolute() and named.is_dir() else Path(tempfile.gettempdir())


def _locked_folder(parent: Path | None) -> tuple[Path, int]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent or _system_folder()))
        try:
            lock = _lock(folder)
        except (BlockingIOError, FileNotFoundError):
            continue  # another process, just starting, took it for left behind
        if folder.is_dir():
            return folder, lock
        os.close(lock)


def _lock(folder: Path) -> int:
    """Return a descriptor that holds the folder's lock until it is closed.

    Raises:
        BlockingIOError: Somebody holds it.
        OSError: It cannot be opened or locked.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
