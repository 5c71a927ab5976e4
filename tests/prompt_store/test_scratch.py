import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from prompt_store.scratch import PREFIX, remove_leftovers, scratch_folder

HOLDER = """
import sys, time
from pathlib import Path
from prompt_store.scratch import scratch_folder
with scratch_folder(Path(sys.argv[1])) as folder:
    (folder / "spooled").write_bytes(b"x")
    print(folder, flush=True)
    time.sleep(60)
"""


def test_a_folder_and_what_is_in_it_go_at_the_end(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="stop"), scratch_folder(tmp_path) as folder:  # noqa: PT012
        (folder / "inner").mkdir()
        (folder / "inner" / "file").touch()
        assert folder.stat().st_mode & 0o777 == 0o700
        raise ValueError("stop")
    assert list(tmp_path.iterdir()) == []


def test_a_start_removes_what_a_killed_process_left_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    (tmp_path / f"{PREFIX}file").touch()
    (tmp_path / f"{PREFIX}link").symlink_to(Path.home())
    others = set(tmp_path.iterdir())
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    with holder, scratch_folder(tmp_path) as own:
        assert holder.stdout is not None
        other = Path(holder.stdout.readline().decode().strip())
        remove_leftovers(tmp_path)
        assert set(tmp_path.iterdir()) == {*others, own, other}
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        assert (other / "spooled").exists()
        remove_leftovers(tmp_path)
        assert set(tmp_path.iterdir()) == {*others, own}


def test_the_default_is_the_folder_for_temporary_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    (tmp_path / f"{PREFIX}old").mkdir()
    remove_leftovers()
    assert list(tmp_path.iterdir()) == []
    with scratch_folder() as folder:
        assert folder.parent == tmp_path


def test_a_folder_that_is_not_there_holds_nothing(tmp_path: Path) -> None:
    remove_leftovers(tmp_path / "nowhere")
    assert list(tmp_path.iterdir()) == []


def test_nobody_loses_a_folder_to_one_who_starts(tmp_path: Path) -> None:
    """Between its making and its locking a folder looks as if it were left behind."""
    done = threading.Event()

    def keep_starting() -> None:
        while not done.is_set():
            remove_leftovers(tmp_path)

    starting = threading.Thread(target=keep_starting)
    starting.start()
    try:
        for _ in range(100):
            with scratch_folder(tmp_path) as folder:
                (folder / "spooled").touch()
                os.sched_yield()
                assert (folder / "spooled").exists()
    finally:
        done.set()
        starting.join()
    assert list(tmp_path.iterdir()) == []
