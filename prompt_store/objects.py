"""The object store: keys to immutable bytes, created once; overwritten only to mend damage."""

import errno
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore

from prompt_store.durable_files import (
    create_file,
    remove_stale_temporaries,
    replace_file,
    sync_folders,
)
from prompt_store.errors import (
    NameInvalidError,
    NotFoundError,
    StoreFullError,
    StoreUnavailableError,
)
from prompt_store.names import shown
from prompt_store.store_identity import StoreIdentity

_SEGMENT = r"[A-Za-z0-9][A-Za-z0-9._@-]*"
_NAME = re.compile(_SEGMENT)
_KEY = re.compile(rf"{_SEGMENT}(/{_SEGMENT})*")
_MAX_KEY_CHARACTERS = 512
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
"""What the operating system says of a full disk, or a quota that is used up."""

_STALE_AFTER_S = 24 * 3600.0


class ObjectStore:
    """Objects below one local folder; obstore reads, `durable_files` writes.

    Folders are listed and sizes asked for here: obstore takes ten times as long for either. Files
    and folders whose names cannot be part of a key are no objects and are not listed.

    Safe to use from many threads and processes at once. Keys are segments of
    `[A-Za-z0-9][A-Za-z0-9._@-]*` joined by `/`, 512 characters at most. While the folder does not
    hold the store that it held at first, because its volume is not mounted, nothing is written, and
    nothing is said not to exist: every call raises `StoreUnavailableError`.

    Args:
        root: An existing folder, all on one file system.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._store = LocalStore(root)
        self._identity = StoreIdentity(root)

    def put_new(self, key: str, data: bytes) -> bool:
        """Create `key` with `data`; on return it is on the disk.

        Returns:
            True if this call created it, False if it existed; it is then left as it was.

        Raises:
            StoreFullError: No room; nothing is visible.
            StoreUnavailableError: The file system refused; nothing was acknowledged.
        """
        return self._create(key, lambda file: file.write(data))

    def put_file(self, key: str, path: Path) -> bool:
        """Create `key` with the bytes of the file at `path`, as `put_new` does."""
        with path.open("rb") as source:
            return self._create(key, lambda file: shutil.copyfileobj(source, file))

    def mend(self, key: str, write: Callable[[BinaryIO], object]) -> None:
        """Replace the bytes of `key`, which were damaged, by the right ones; raises as `put_new`.

        For content that is named by its digest, and nothing else. A reader gets the old bytes or
        the new ones, whole.
        """
        with self._access("write", key):
            self._identity.check()
            replace_file(self._root, key, write)

    def sync(self, key: str) -> None:
        """Make sure that an existing key survives a power cut, whoever created it."""
        with self._access("sync", key):
            sync_folders(self._root, (self._root / key).parent)

    def get(self, key: str) -> bytes:
        """Return the bytes of `key`.

        Raises:
            NotFoundError: There is no such key.
            StoreUnavailableError: It could not be read.
        """
        with self._access("read", key):
            return bytes(obstore.get(self._store, key).bytes())

    def open(self, key: str) -> BufferedReader:
        """Open `key` for reading at any place; raises as `get` does."""
        with self._access("read", key):
            return (self._root / key).open("rb")

    def chunks(self, key: str) -> Iterator[bytes]:
        """Yield the bytes of `key` in pieces of at most about 10 MB; raises as `get` does."""
        with self._access("read", key):
            for chunk in obstore.get(self._store, key).stream():
                yield bytes(chunk)

    def size(self, key: str) -> int | None:
        """Return the size of `key` in bytes, None if there is no such key."""
        with suppress(NotFoundError), self._access("look up", key):
            found = (self._root / key).stat()
            return found.st_size if stat.S_ISREG(found.st_mode) else None
        return None

    def children(self, prefix: str) -> list[str]:
        """Return the names of the folders directly below the folder `prefix`, sorted."""
        with self._access("list", prefix):
            return sorted(entry.name for entry in self._entries(prefix) if entry.is_dir())

    def delete(self, key: str) -> None:
        """Delete `key` if it exists: for marks that point at something, never for the thing."""
        with suppress(NotFoundError), self._access("delete", key):
            obstore.delete(self._store, key)

    def probe(self) -> None:
        """Check that a second creation of one key is refused, and that the first one stands.

        Raises:
            StoreUnavailableError: It is not, so concurrent writers would overwrite each other.
        """
        key = f"probes/{secrets.token_hex(16)}"
        answers = (self.put_new(key, b"first"), self.put_new(key, b"second"))
        kept = self.get(key)
        self.delete(key)
        if answers != (True, False) or kept != b"first":
            raise StoreUnavailableError(
                f"the store at {self._root} overwrites existing objects: two conditional writes of "
                f"one key answered {answers} and left {kept!r}; expected (True, False) and b'first'"
            )

    def _create(self, key: str, write: Callable[[BinaryIO], object]) -> bool:
        with self._access("write", key):
            self._identity.check()
            return create_file(self._root, key, write)

    def list(self, prefix: str, *, start_after: str = "", limit: int | None = None) -> list[str]:
        """Return the keys below the folder `prefix`, sorted, at any depth.

        Args:
            prefix: A key without its last segments, such as `prompts/fashion/versions`.
            start_after: Only keys that sort after this one.
            limit: At most so many.
        """
        with self._access("list", prefix):
            return sorted(key for key in self._keys(prefix) if key > start_after)[:limit]

    def _keys(self, prefix: str) -> Iterator[str]:
        for entry in self._entries(prefix):
            key = f"{prefix}/{entry.name}"
            if entry.is_dir():
                yield from self._keys(key)
            else:
                yield key

    def _entries(self, prefix: str) -> Iterator[os.DirEntry[str]]:
        """What is in a folder; nothing if there is no such folder in the store."""
        try:
            with os.scandir(f"{self._root}/{prefix}") as entries:
                yield from (entry for entry in entries if _NAME.fullmatch(entry.name))
        except (FileNotFoundError, NotADirectoryError):
            self._identity.check()

    @contextmanager
    def _access(self, action: str, key: str) -> Generator[None]:
        """Translate errors; in another folder than the store's own, nothing can be missing."""
        with _translated(action, _checked(key)):
            try:
                yield
            except FileNotFoundError:
                self._identity.check()
                raise


def open_object_store(url: str) -> ObjectStore:
    """Open the store at `url`, making its folder if needed, and probe it.

    Args:
        url: `file:///absolute/path`.

    Raises:
        StoreUnavailableError: The scheme is not `file`, or the folder cannot be used: not
            writable, full, without hard links, or without create-only writes.
    """
    parts = urlsplit(url)
    if parts.scheme != "file" or parts.netloc not in ("", "localhost") or parts.path in ("", "/"):
        raise StoreUnavailableError(
            f"store URL {shown(url)} is not of the form file:///absolute/folder"
        )
    root = Path(unquote(parts.path))
    with _translated("open", str(root)):
        root.mkdir(parents=True, exist_ok=True)
        remove_stale_temporaries(root, older_than_unix_s=time.time() - _STALE_AFTER_S)
        store = ObjectStore(root)
    store.probe()
    return store


def _checked(key: str) -> str:
    if len(key) > _MAX_KEY_CHARACTERS or not _KEY.fullmatch(key):
        raise NameInvalidError(
            f"key {shown(key)} is not segments of {_SEGMENT} joined by '/' "
            f"within {_MAX_KEY_CHARACTERS} characters"
        )
    return key


@contextmanager
def _translated(action: str, key: str) -> Generator[None]:
    try:
        yield
    except FileNotFoundError as error:
        if action in ("read", "look up", "delete"):
            raise NotFoundError(f"there is no object {key}") from error
        raise StoreUnavailableError(f"cannot {action} {key}: {_first_line(error)}") from error
    except OSError as error:
        kind = StoreFullError if error.errno in NO_ROOM else StoreUnavailableError
        raise kind(f"cannot {action} {key}: {_first_line(error)}") from error
    except BaseError as error:
        raise StoreUnavailableError(f"cannot {action} {key}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]  # obstore appends a dump of its own structures
