"""Content-addressed bytes: stored under their digest, checked whenever they are read."""

import hashlib
import os
import tempfile
from contextlib import suppress
from pathlib import Path

from prompt_store.errors import DigestMismatchError, NotFoundError
from prompt_store.names import check_digest, digest_of
from prompt_store.objects import ObjectStore


class BlobStore:
    """Blobs in an object store, at `sha256/<first two digits>/<all digits>`.

    Args:
        objects: Where the blobs are kept.
    """

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects

    def put_bytes(self, data: bytes) -> str:
        """Store `data` durably, unless it is there already, and return its digest.

        Raises:
            DigestMismatchError: A blob of another size is stored under this digest: it is corrupt.
            StoreFullError, StoreUnavailableError: As `ObjectStore.put_new`.
        """
        digest = digest_of(data)
        if not self._objects.put_new(_key(digest), data):
            self._check_size(digest, len(data))
        return digest

    def put_file(self, path: Path, digest: str | None = None) -> str:
        """Store the file at `path` durably, unless it is there already, and return its digest.

        Args:
            path: A file that nobody writes to meanwhile.
            digest: What the caller believes the digest to be, checked if given.

        Raises:
            DigestMismatchError: The file has another digest (nothing is stored), or as `put_bytes`.
            StoreFullError, StoreUnavailableError: As `ObjectStore.put_new`.
        """
        with path.open("rb") as file:
            actual = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
        if digest is not None and actual != digest:
            raise DigestMismatchError(f"the content has digest {actual}, not {digest}")
        if not self._objects.put_file(_key(actual), path):
            self._check_size(actual, path.stat().st_size)
        return actual

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
        """
        key = _key(digest)
        running = hashlib.sha256()
        descriptor, temporary = tempfile.mkstemp(prefix=f"{path.name}.", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                for chunk in self._objects.chunks(key):
                    running.update(chunk)
                    file.write(chunk)
            if f"sha256:{running.hexdigest()}" != digest:
                raise _damaged(digest, f"sha256:{running.hexdigest()}")
            Path(temporary).replace(path)
        finally:
            with suppress(FileNotFoundError):  # it has become `path`
                Path(temporary).unlink()

    def exists(self, digest: str) -> bool:
        """Say whether a blob is stored under this digest."""
        return self._objects.size(_key(digest)) is not None

    def size_bytes(self, digest: str) -> int:
        """Return the blob's size in bytes.

        Raises:
            NotFoundError: There is no such blob.
        """
        size_bytes = self._objects.size(_key(digest))
        if size_bytes is None:
            raise NotFoundError(f"there is no blob {digest}")
        return size_bytes

    def _check_size(self, digest: str, expected_bytes: int) -> None:
        stored_bytes = self.size_bytes(digest)
        if stored_bytes != expected_bytes:
            raise DigestMismatchError(
                f"the stored blob {digest} has {stored_bytes} bytes instead of {expected_bytes}: "
                "it was damaged at rest"
            )


def _key(digest: str) -> str:
    digits = check_digest(digest).removeprefix("sha256:")
    return f"sha256/{digits[:2]}/{digits}"


def _damaged(digest: str, actual: str) -> DigestMismatchError:
    return DigestMismatchError(f"the stored blob {digest} has digest {actual}: damaged at rest")
