"""All processes of one server, wherever its own supervisor put them. Linux only.

They are found by a variable in their environment, which children inherit, so that daemons which
left the process group are counted, and ended, as well.
"""

import os
import signal
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

MARK = "HGPROMPT_BENCH_SERVER"
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_UTIME = 11  # of the fields after the command's name: utime, stime, cutime, cstime
_PROC = Path("/proc")


@dataclass(frozen=True)
class MarkedProcesses:
    """Processes started with `MARK` set to `mark`."""

    mark: str

    def pids(self) -> list[int]:
        """Return those that run."""
        wanted = f"{MARK}={self.mark}".encode()
        return [pid for pid in _all_pids() if wanted in _environment(pid)]

    def cpu_s(self) -> float:
        """Return the processor seconds of all, with those of ended children."""
        return sum(_cpu_s(pid) for pid in self.pids())

    def memory_bytes(self) -> int:
        """Return the memory of all, shared pages counted once (proportional set size)."""
        return sum(_pss_bytes(pid) for pid in self.pids())

    @contextmanager
    def paused(self) -> Generator[None]:
        """Suspend all of them, so that they take no processor time from what is measured."""
        pids = self.pids()
        for pid in pids:
            _signal(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                _signal(pid, signal.SIGCONT)

    def stop(self, *, grace_s: float = 5.0) -> None:
        """End all: SIGTERM, and SIGKILL to those that are left after the grace."""
        for number, patience_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, grace_s)):
            for pid in self.pids():
                _signal(pid, number)
            deadline_s = time.monotonic() + patience_s
            while self.pids():
                if time.monotonic() > deadline_s:
                    break
                time.sleep(0.05)


def _all_pids() -> list[int]:
    return [int(path.name) for path in _PROC.iterdir() if path.name.isdigit()]


def _read(pid: int, name: str) -> bytes:
    """A file of a process; empty if it has ended or is not ours."""
    try:
        return (_PROC / str(pid) / name).read_bytes()
    except OSError:
        return b""


def _environment(pid: int) -> list[bytes]:
    return _read(pid, "environ").split(b"\0")


def _cpu_s(pid: int) -> float:
    fields = _read(pid, "stat").rpartition(b")")[2].split()
    return sum(map(int, fields[_UTIME : _UTIME + 4])) / _TICKS_PER_S


def _pss_bytes(pid: int) -> int:
    lines = _read(pid, "smaps_rollup").splitlines()
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith(b"Pss:"))


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return  # it ended by itself
