import os
from pathlib import Path
from typing import Any

import pytest

from prompt_store.blobs import BlobStore
from prompt_store.errors import (
    DigestMismatchError,
    NameInvalidError,
    NotFoundError,
    StoreFullError,
    StoreUnavailableError,
)
from prompt_store.names import digest_of

CONTENT = b"the content of a blob"
DIGEST = digest_of(CONTENT)


def blob_path(root: Path, digest: str) -> Path:
    digits = digest.removeprefix("sha256:")
    return root / "sha256" / digits[:2] / digits


def damage(path: Path, position: int = 3) -> None:
    """Flip one bit of a stored file, as a failing disk would."""
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)


def test_bytes_come_back_under_their_digest(root: Path, blobs: BlobStore) -> None:
    assert blobs.put_bytes(CONTENT) == DIGEST
    assert blobs.put_bytes(CONTENT) == DIGEST
    assert blobs.get_bytes(DIGEST) == CONTENT
    assert blobs.size_bytes(DIGEST) == len(CONTENT)
    assert blob_path(root, DIGEST).read_bytes() == CONTENT


def test_a_file_is_stored_under_its_digest(blobs: BlobStore, tmp_path: Path) -> None:
    content = os.urandom(2_500_000)
    (tmp_path / "in").write_bytes(content)
    digest = blobs.put_file(tmp_path / "in")
    assert digest == digest_of(content)
    blobs.fetch_to(digest, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == content
    with blobs.open_checked(digest) as file:
        assert file.read() == content


def test_a_missing_blob_is_not_found(blobs: BlobStore, tmp_path: Path) -> None:
    for call in (
        blobs.get_bytes,
        blobs.open_checked,
        blobs.size_bytes,
        lambda d: blobs.fetch_to(d, tmp_path / "x"),
    ):
        with pytest.raises(NotFoundError, match=DIGEST.removeprefix("sha256:")):
            call(DIGEST)
    assert list(tmp_path.glob("x*")) == []


def test_a_malformed_digest_reaches_no_file(blobs: BlobStore) -> None:
    with pytest.raises(NameInvalidError):
        blobs.get_bytes("sha256:../../../../etc/passwd")


def test_a_blob_damaged_at_rest_is_never_returned(
    root: Path, blobs: BlobStore, tmp_path: Path
) -> None:
    blobs.put_bytes(CONTENT)
    damage(blob_path(root, DIGEST))
    with pytest.raises(DigestMismatchError, match=f"{DIGEST} has digest sha256:.*damaged at rest"):
        blobs.get_bytes(DIGEST)
    with pytest.raises(DigestMismatchError, match="damaged at rest"):
        blobs.open_checked(DIGEST)
    with pytest.raises(DigestMismatchError, match="damaged at rest"):
        blobs.fetch_to(DIGEST, tmp_path / "out")
    assert list(tmp_path.glob("out*")) == []


@pytest.mark.parametrize("by_file", [False, True])
@pytest.mark.parametrize("damaged", [CONTENT[:-1], CONTENT.upper(), b""])
def test_a_damaged_blob_that_is_put_again_is_mended(
    root: Path,
    blobs: BlobStore,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    by_file: bool,
    damaged: bytes,
) -> None:
    (tmp_path / "in").write_bytes(CONTENT)
    blobs.put_bytes(CONTENT)
    path = blob_path(root, DIGEST)
    path.chmod(0o644)
    path.write_bytes(damaged)

    again = blobs.put_file(tmp_path / "in") if by_file else blobs.put_bytes(CONTENT)

    assert again == DIGEST
    assert blobs.get_bytes(DIGEST) == CONTENT
    assert path.stat().st_mode & 0o777 == 0o444
    assert f"{DIGEST} has digest" in caplog.text
    assert list((root / ".tmp").iterdir()) == []


def test_no_room_for_a_copy_is_told_as_such(
    blobs: BlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs.put_bytes(CONTENT)

    def on_a_full_disk(descriptor: int, mode: str) -> Any:
        os.close(descriptor)
        return open("/dev/full", mode)  # noqa: PTH123

    monkeypatch.setattr(os, "fdopen", on_a_full_disk)
    with pytest.raises(StoreFullError, match=f"no room for a copy of blob {DIGEST} in {tmp_path}"):
        blobs.fetch_to(DIGEST, tmp_path / "out")
    assert list(tmp_path.glob("out*")) == []


def test_a_copy_that_cannot_be_written_is_told_as_such(blobs: BlobStore, tmp_path: Path) -> None:
    blobs.put_bytes(CONTENT)
    with pytest.raises(StoreUnavailableError, match=f"cannot write a copy of blob {DIGEST} in"):
        blobs.fetch_to(DIGEST, tmp_path / "no-such-folder" / "out")
