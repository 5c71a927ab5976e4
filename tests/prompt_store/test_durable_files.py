import os
import sys
from pathlib import Path
from types import FrameType

import pytest

from prompt_store.durable_files import TEMPORARY_FOLDER, create_file, remove_stale_temporaries


def temporaries(root: Path) -> list[Path]:
    return list((root / TEMPORARY_FOLDER).iterdir())


def test_a_file_is_created_once_and_then_left_alone(tmp_path: Path) -> None:
    assert create_file(tmp_path, "a/b/c", lambda file: file.write(b"first"))
    assert not create_file(tmp_path, "a/b/c", lambda file: file.write(b"second"))
    assert (tmp_path / "a/b/c").read_bytes() == b"first"
    assert temporaries(tmp_path) == []


def test_a_file_is_read_only(tmp_path: Path) -> None:
    create_file(tmp_path, "a", lambda file: file.write(b"x"))
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o444


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    def fail(_: object) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        create_file(tmp_path, "a", fail)
    assert not (tmp_path / "a").exists()
    assert temporaries(tmp_path) == []


def test_content_is_synced_before_the_link_and_every_folder_after_it(tmp_path: Path) -> None:
    calls: list[str] = []

    def record(_: FrameType, event: str, function: object) -> None:
        if event == "c_call" and function in (os.fsync, os.link):
            calls.append(getattr(function, "__name__", ""))

    sys.setprofile(record)
    try:
        create_file(tmp_path, "a/b/c", lambda file: file.write(b"x"))
        created = calls.copy()
        calls.clear()
        create_file(tmp_path, "a/b/c", lambda file: file.write(b"x"))
    finally:
        sys.setprofile(None)
    assert created == ["fsync", "link", "fsync", "fsync", "fsync"]  # then b, a and the root
    # Whoever finds the file there may acknowledge it too, so it syncs what the first may not have.
    assert calls == ["fsync", "fsync", "fsync"]


def test_only_old_temporaries_are_removed(tmp_path: Path) -> None:
    create_file(tmp_path, "a", lambda file: file.write(b"x"))
    old, young = tmp_path / TEMPORARY_FOLDER / "put-old", tmp_path / TEMPORARY_FOLDER / "put-young"
    for path, modified_unix_s in ((old, 1000), (young, 3000)):
        path.write_bytes(b"")
        os.utime(path, (modified_unix_s, modified_unix_s))
    assert remove_stale_temporaries(tmp_path, older_than_unix_s=2000) == 1
    assert temporaries(tmp_path) == [young]
