"""Content-addressed bytes: stored under their digest, checked whenever they are read."""

import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO

from prompt_store.errors import (
    DigestMismatchError,
    NotFoundError,
    StoreFullError,
    StoreUnavailableError,
)
from prompt_store.names import check_digest, digest_of
from prompt_store.objects import NO_ROOM, ObjectStore

logger = logging.getLogger(__name__)


class BlobStore:
    """Blobs in an object store, at `sha256/<first two digits>/<all digits>`.

    Args:
        objects: Where the blobs are kept.
    """

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects

    def put_bytes(self, data: bytes) -> str:
        """Store `data` durably, unless it is there already, and return its digest.

        A blob that was damaged at rest is mended, since its bytes are known again.

        Raises:
            StoreFullError, StoreUnavailableError: As `ObjectStore.put_new`.
        """
        digest = digest_of(data)
        if not self._objects.put_new(_key(digest), data) and not self._is_whole(digest):
            self._objects.mend(_key(digest), lambda file: file.write(data))
        return digest

    def put_file(self, path: Path) -> str:
        """Store the file at `path` durably, as `put_bytes`, and return its digest.

        Args:
            path: A file that nobody writes to meanwhile.

        Raises:
            StoreFullError, StoreUnavailableError: As `ObjectStore.put_new`.
        """
        with path.open("rb") as file:
            digest = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
        if not self._objects.put_file(_key(digest), path) and not self._is_whole(digest):
            with path.open("rb") as file:
                self._objects.mend(_key(digest), partial(shutil.copyfileobj, file))
        return digest

    def get_bytes(self, digest: str) -> bytes:
        """Return the blob's bytes.

        Raises:
            NotFoundError: There is no such blob.
            DigestMismatchError: The stored bytes have another digest: they were damaged at rest.
            StoreUnavailableError: It could not be read.
        """
        data = self._objects.get(_key(digest))
        if digest_of(data) != digest:
            raise _damaged(digest, digest_of(data))
        return data

    def fetch_to(self, digest: str, path: Path) -> None:
        """Write the blob to `path`, which appears only when it is whole and its digest right.

        Raises:
            NotFoundError, DigestMismatchError, StoreUnavailableError: As `get_bytes`.
            StoreFullError: There is no room for it at `path`.
            StoreUnavailableError: `path` cannot be written.
        """
        with _writable(digest, path):
            descriptor, temporary = tempfile.mkstemp(prefix=f"{path.name}.", dir=path.parent)
        try:
            with _writable(digest, path), os.fdopen(descriptor, "wb") as file:
                actual = self._digest_of_stored(digest, file.write)
            if actual != digest:
                raise _damaged(digest, actual)
            with _writable(digest, path):
                Path(temporary).replace(path)
        finally:
            with suppress(FileNotFoundError):  # it has become `path`
                Path(temporary).unlink()

    def open_checked(self, digest: str) -> BinaryIO:
        """Read all of the blob, and open it at its beginning if its digest is right.

        Raises:
            NotFoundError, DigestMismatchError, StoreUnavailableError: As `get_bytes`.
        """
        with ExitStack() as stack:
            file = stack.enter_context(self._objects.open(_key(digest)))
            try:
                actual = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
                file.seek(0)
            except OSError as error:
                raise StoreUnavailableError(f"cannot read blob {digest}: {error}") from error
            if actual != digest:
                raise _damaged(digest, actual)
            stack.pop_all()
        return file

    def size_bytes(self, digest: str) -> int:
        """Return the blob's size in bytes.

        Raises:
            NotFoundError: There is no such blob.
        """
        size_bytes = self._objects.size(_key(digest))
        if size_bytes is None:
            raise NotFoundError(f"there is no blob {digest}")
        return size_bytes

    def _is_whole(self, digest: str) -> bool:
        """Whether what is stored under the digest has it; if not the log says so."""
        try:
            actual = self._digest_of_stored(digest)
        except StoreUnavailableError as error:
            logger.error("%s; it is written again", error)  # noqa: TRY400
            return False
        if actual != digest:
            logger.error("%s; it is written again", _damaged(digest, actual))
        return actual == digest

    def _digest_of_stored(
        self, digest: str, on_chunk: Callable[[bytes], object] = lambda _: None
    ) -> str:
        running = hashlib.sha256()
        for chunk in self._objects.chunks(_key(digest)):
            running.update(chunk)
            on_chunk(chunk)
        return f"sha256:{running.hexdigest()}"


def _key(digest: str) -> str:
    digits = check_digest(digest).removeprefix("sha256:")
    return f"sha256/{digits[:2]}/{digits}"


@contextmanager
def _writable(digest: str, path: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        copy = f"a copy of blob {digest} in {path.parent}"
        if error.errno in NO_ROOM:
            raise StoreFullError(f"no room for {copy}") from error
        raise StoreUnavailableError(f"cannot write {copy}: {error.strerror}") from error


def _damaged(digest: str, actual: str) -> DigestMismatchError:
    return DigestMismatchError(f"the stored blob {digest} has digest {actual}: damaged at rest")
