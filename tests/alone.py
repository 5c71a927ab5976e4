"""Turns of the tests of several pytest processes: many at once, or one that is alone.

A readers-writer lock of two locked files. Whoever wants a turn first takes `next`, and keeps it
until they have `now`: shared, for a test beside others, or exclusively. So one that waits to be
alone is overtaken by nobody, and the kernel gives back what a killed process held.
"""

import fcntl
import os
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def turn(*, alone: bool) -> Generator[None]:
    """Hold a turn; without pytest-xdist there is nobody to wait for."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID")
    if run is None:
        yield
        return
    folder = Path(tempfile.gettempdir()) / f"hgprompt-tests-{run}"
    folder.mkdir(exist_ok=True)
    with (folder / "now").open("w") as now:
        with (folder / "next").open("w") as following:
            fcntl.flock(following, fcntl.LOCK_EX)
            fcntl.flock(now, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        yield
