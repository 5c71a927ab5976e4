"""Signals that ask this process to end, counted instead of obeyed at once."""

import signal
import threading
from types import FrameType
from typing import Self

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopSignals:
    """Counts SIGINT, SIGTERM and SIGHUP while it is entered. Main thread only.

    A SIGHUP that was ignored before, as under `nohup`, stays ignored.
    """

    def __init__(self) -> None:
        self._count = 0
        self._first = threading.Event()
        self._previous = {}

    def __enter__(self) -> Self:
        nohup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        heeded = [signum for signum in SIGNALS if not (nohup and signum == signal.SIGHUP)]
        self._previous = {signum: signal.signal(signum, self._note) for signum in heeded}
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        del signum, frame
        self._count += 1
        self._first.set()

    def count(self) -> int:
        """How many have come."""
        return self._count

    def wait(self, timeout_s: float) -> bool:
        """Waits for the first one; whether it has come."""
        return self._first.wait(timeout_s)
