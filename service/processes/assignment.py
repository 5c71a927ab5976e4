"""What a child process is told by its supervisor, as its one argument."""

import sys
from pathlib import Path

import msgspec

ENGINE = "engine"
ENGINE_SOCKET = "engine.sock"


class Assignment(msgspec.Struct, frozen=True):
    """A child's place.

    Attributes:
        name: `engine`, or `front-0`, `front-1`, …
        folder: Private folder of this host's processes, with their sockets.
        parent_pid: The supervisor.
        pulse_fd: Pipe for signs of life.
        beat_s: How often to give one.
        listener_fds: Sockets to accept HTTP connections on.
    """

    name: str
    folder: str
    parent_pid: int
    pulse_fd: int
    beat_s: float
    listener_fds: tuple[int, ...] = ()

    @property
    def engine_socket(self) -> Path:
        """Where the engine's process listens."""
        return Path(self.folder) / ENGINE_SOCKET

    def argument(self) -> str:
        """Return it as the child's argument."""
        return msgspec.json.encode(self).decode()


def assignment() -> Assignment:
    """Return what this process was told.

    Raises:
        SystemExit: It was started by hand.
    """
    try:
        return msgspec.json.decode(sys.argv[1], type=Assignment)
    except (IndexError, msgspec.MsgspecError):
        sys.exit("this process is started by `python -m service`")


def front_name(index: int) -> str:
    """Return the name of a front."""
    return f"front-{index}"


def process_names(num_fronts: int) -> tuple[str, ...]:
    """Return the names of a host's processes."""
    return (ENGINE, *(front_name(index) for index in range(num_fronts)))
