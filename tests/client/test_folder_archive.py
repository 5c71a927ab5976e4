import os
import zipfile
from pathlib import Path

import pytest

from client.errors import ClientError
from client.folder_archive import zip_folder


def make_task(folder: Path) -> Path:
    for name in ("dog/b.png", "cat/a.png", "cat/.DS_Store", "__MACOSX/cat/a.png", ".git/x"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return folder


def test_equal_contents_give_equal_bytes(tmp_path: Path) -> None:
    one, other = make_task(tmp_path / "one"), make_task(tmp_path / "other")
    os.utime(other / "cat/a.png", (1e9, 1e9))
    (other / "dog/b.png").chmod(0o600)
    assert zip_folder(one, tmp_path / "1.zip") == zip_folder(other, tmp_path / "2.zip") == 2
    assert (tmp_path / "1.zip").read_bytes() == (tmp_path / "2.zip").read_bytes()


def test_names_are_sorted_and_hidden_files_left_out(tmp_path: Path) -> None:
    zip_folder(make_task(tmp_path / "task"), tmp_path / "task.zip")
    with zipfile.ZipFile(tmp_path / "task.zip") as archive:
        assert archive.namelist() == ["cat/a.png", "dog/b.png"]
        assert archive.read("dog/b.png") == b"dog/b.png"


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    task = make_task(tmp_path / "task")
    (task / "wolf").symlink_to(task / "dog")
    (task / "dog" / "up").symlink_to(task)
    zip_folder(task, tmp_path / "task.zip")
    with zipfile.ZipFile(tmp_path / "task.zip") as archive:
        assert archive.namelist() == ["cat/a.png", "dog/b.png", "wolf/b.png"]


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty" / "class").mkdir(parents=True)
    with pytest.raises(ClientError, match="holds no files"):
        zip_folder(tmp_path / "empty", tmp_path / "task.zip")


def test_a_name_that_is_not_unicode_is_told(tmp_path: Path) -> None:
    folder = make_task(tmp_path / "task")
    Path(os.fsdecode(bytes(folder) + b"/cat/caf\xe9.png")).write_bytes(b"x")
    with pytest.raises(ClientError, match="not UTF-8"):
        zip_folder(folder, tmp_path / "task.zip")


def test_a_zip_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(ClientError, match=r"cannot write .*gone/task\.zip: No such file"):
        zip_folder(make_task(tmp_path / "task"), tmp_path / "gone" / "task.zip")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_a_folder_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    folder = make_task(tmp_path / "task")
    (folder / "cat").chmod(0)
    with pytest.raises(ClientError, match=r"cannot read .*cat: Permission denied"):
        zip_folder(folder, tmp_path / "task.zip")
    (folder / "cat").chmod(0o700)
