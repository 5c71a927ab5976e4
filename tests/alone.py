"""Turns of the tests of several pytest processes: many at once, or one that is alone.

A readers-writer lock of two locked files. Whoever wants a turn first takes `next`, and keeps it
until they have `now`: shared, for a test beside others, or exclusively. So one that waits to be
alone is overtaken by nobody, and the kernel gives back what a killed process held.
"""

import fcntl
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

FOLDER = "HGPROMPT_TEST_TURNS"
"""Variable with the folder of the two files; without it there is nobody to wait for."""

LIMIT_S = 1800.0
_POLL_S = 0.02


@contextmanager
def turn(folder: Path, *, alone: bool) -> Generator[None]:
    """Hold a turn.

    Raises:
        TimeoutError: Another process has kept its turn for half an hour.
    """
    with (folder / "now").open("a") as now:
        with (folder / "next").open("a") as following:
            _lock(following, fcntl.LOCK_EX)
            _lock(now, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        yield


def _lock(file: IO[str], operation: int) -> None:
    deadline_s = time.monotonic() + LIMIT_S
    while True:
        try:
            return fcntl.flock(file, operation | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"no turn within {LIMIT_S:g} s ({file.name})") from None
            time.sleep(_POLL_S)
