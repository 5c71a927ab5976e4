import os
import subprocess
import sys
from pathlib import Path

import pytest

from client.data_dir import DataDirLock, default_data_dir
from client.errors import StartError


def test_the_default_follows_the_platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_data_dir({}, "linux") == tmp_path / ".local/share/hgprompt"
    assert default_data_dir({}, "darwin") == tmp_path / "Library/Application Support/hgprompt"
    assert default_data_dir({"XDG_DATA_HOME": "/x"}, "linux") == Path("/x/hgprompt")


def test_a_relative_xdg_data_home_is_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    found = default_data_dir({"XDG_DATA_HOME": "relative"}, "linux")
    assert found == tmp_path / ".local/share/hgprompt"


def test_a_second_holder_is_told_who_is_the_first(tmp_path: Path) -> None:
    with DataDirLock.acquire(tmp_path / "new", ending_s=5) as lock:
        lock.announce("http://127.0.0.1:1234")
        with pytest.raises(StartError, match=rf"process {os.getpid()} at http://127.0.0.1:1234"):
            DataDirLock.acquire(tmp_path / "new", ending_s=5)


def test_the_folder_is_free_afterwards(tmp_path: Path) -> None:
    with DataDirLock.acquire(tmp_path, ending_s=0) as first:
        first.announce("http://127.0.0.1:1234")
    with DataDirLock.acquire(tmp_path, ending_s=0) as second:
        second.announce("http://127.0.0.1:5678")
        with pytest.raises(StartError, match=rf"process {os.getpid()} at http://127.0.0.1:5678"):
            DataDirLock.acquire(tmp_path, ending_s=0)


def test_waits_for_the_children_of_a_holder_that_is_gone(tmp_path: Path) -> None:
    with DataDirLock.acquire(tmp_path, ending_s=0) as lock:
        children = [sys.executable, "-c", "input()"]
        child = subprocess.Popen(children, stdin=subprocess.PIPE, pass_fds=(lock.children_fd,))
    pauses: list[float] = []
    with pytest.raises(StartError, match="an hgprompt that was killed still use"):
        DataDirLock.acquire(tmp_path, ending_s=1.0, sleep=pauses.append)
    assert sum(pauses) == pytest.approx(1.0, abs=0.15)
    with child:
        child.communicate()
    with DataDirLock.acquire(tmp_path, ending_s=0):
        pass


def test_a_folder_that_cannot_be_made_is_a_start_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StartError, match="cannot use the data folder"):
        DataDirLock.acquire(tmp_path / "file", ending_s=0)
