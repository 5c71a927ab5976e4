"""The folder that one local deployment lives in, and its lock."""

import fcntl
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

from client.errors import StartError

POLL_S = 0.1


def default_data_dir(environ: Mapping[str, str], platform: str = sys.platform) -> Path:
    """Where a program's data belongs on this platform; XDG_DATA_HOME wins if it is absolute."""
    xdg = Path(environ.get("XDG_DATA_HOME", ""))
    if xdg.is_absolute():
        return xdg / "hgprompt"
    if platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "hgprompt"
    return Path.home() / ".local" / "share" / "hgprompt"


class DataDirLock:
    """Keeps a second local deployment out of a data folder.

    Two kernel locks (`flock`), which cannot outlive those who hold them: one is ours alone;
    the other, `children_fd`, is to be inherited by a process that outlives the children. So a
    deployment that runs can be told from one that was killed and whose children still end.
    """

    def __init__(self, holder_fd: int, children_fd: int) -> None:
        self._holder_fd = holder_fd
        self.children_fd = children_fd

    @classmethod
    def acquire(
        cls, data_dir: Path, ending_s: float, sleep: Callable[[float], None] = time.sleep
    ) -> Self:
        """Creates the folder if need be and locks it.

        Args:
            data_dir: The folder.
            ending_s: How long to wait for the children of a deployment that was killed.
            sleep: Waits.

        Raises:
            StartError: If the folder cannot be used, or is in use.
        """
        try:
            data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = cls(_open(data_dir / "up.lock"), _open(data_dir / "children.lock"))
        except OSError as exc:
            raise StartError(f"cannot use the data folder {data_dir}: {exc.strerror}") from exc
        try:
            lock._take(data_dir, ending_s, sleep)
        except StartError:
            lock.close()
            raise
        return lock

    def _take(self, data_dir: Path, ending_s: float, sleep: Callable[[float], None]) -> None:
        if not _try_lock(self._holder_fd):
            raise StartError(_in_use(data_dir, _read_holder(self._holder_fd)))
        self.announce(None)
        waited_s = 0.0
        while not _try_lock(self.children_fd):
            if waited_s >= ending_s:
                raise StartError(
                    f"processes of an hgprompt that was killed still use the data folder {data_dir}"
                )
            sleep(POLL_S)
            waited_s += POLL_S

    def announce(self, url: str | None) -> None:
        """Writes down who holds the folder, for the message that others get."""
        os.ftruncate(self._holder_fd, 0)
        os.pwrite(self._holder_fd, json.dumps({"pid": os.getpid(), "url": url}).encode(), 0)

    def close(self) -> None:
        """Gives the folder free."""
        os.close(self._holder_fd)
        os.close(self.children_fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read_holder(fd: int) -> dict[str, object]:
    try:
        return dict(json.loads(os.pread(fd, 4096, 0)))
    except ValueError:
        return {}  # it is just writing


def _in_use(data_dir: Path, holder: Mapping[str, object]) -> str:
    who = f"process {holder.get('pid', 'unknown')}"
    if holder.get("url"):
        who += f" at {holder['url']}"
    return (
        f"the data folder {data_dir} is in use by another hgprompt ({who}); "
        "stop it or choose another folder with --data-dir"
    )
