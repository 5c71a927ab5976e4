"""What workers are called: which host one runs on, and which of its lives it is."""

import os
import secrets
import socket

_SEPARATOR = "#"


def new_worker_name() -> str:
    """Return a name for a worker of this process: no other one has it, nor has had it."""
    return f"{socket.gethostname()}{_SEPARATOR}{os.getpid()}-{secrets.token_hex(4)}"


def host_of_worker(name: str) -> str:
    """Return the host of a worker by its name."""
    return name.rpartition(_SEPARATOR)[0]
