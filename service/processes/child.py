"""One run of a child process, as its supervisor sees it."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self

from service.processes.assignment import Assignment
from service.processes.pulse import UNWELL

SILENT_BEATS = 5
"""Beats that may be missing, or tell of trouble, before a child is killed."""


@dataclass(frozen=True)
class ChildSpec:
    """A process to keep running.

    Attributes:
        name: What to call it.
        program: Command; the assignment is added as its last argument.
        grace_s: How long it may take to end after SIGTERM before it is killed.
        listener_fds: Sockets to hand on.
        environment: Variables that it has beside those of the supervisor, unless that has them.
    """

    name: str
    program: tuple[str, ...]
    grace_s: float
    listener_fds: tuple[int, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict[str, str])


def python_module(name: str) -> tuple[str, ...]:
    """Return the command that runs a module, though one of its name be in the working folder."""
    return (sys.executable, "-P", "-m", name)


class Child:
    """A running process; made by `start`.

    Attributes:
        trouble: Why it had to be killed, if it had to be.
    """

    def __init__(
        self,
        spec: ChildSpec,
        process: Process,
        pulse_fd: int,
        beat_s: float,
        is_ready: asyncio.Event,
    ) -> None:
        self.spec = spec
        self.trouble: str | None = None
        self._process = process
        self._pulse_fd = pulse_fd
        self._beat_s = beat_s
        self._is_ready = is_ready
        self._has_begun = asyncio.Event()
        self._is_watched = True
        self._silent_beats = self._unwell_beats = 0

    @classmethod
    async def start(
        cls, spec: ChildSpec, folder: str, beat_s: float, is_ready: asyncio.Event
    ) -> Self:
        """Start a process, in a group of its own so that Ctrl-C reaches the supervisor alone.

        Args:
            spec: What to start.
            folder: Private folder of the children.
            beat_s: How often it gives signs of life.
            is_ready: Set at the first of them.

        Raises:
            OSError: It cannot be started.
        """
        mine, its = os.pipe()
        try:
            assigned = Assignment(spec.name, folder, os.getpid(), its, beat_s, spec.listener_fds)
            process = await asyncio.create_subprocess_exec(
                *spec.program,
                assigned.argument(),
                stdin=DEVNULL,
                pass_fds=(its, *spec.listener_fds),
                process_group=0,
                env={**spec.environment, **os.environ},
            )
        except BaseException:
            os.close(mine)
            raise
        finally:
            os.close(its)
        return cls(spec, process, mine, beat_s, is_ready)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    async def ended(self) -> str:
        """Wait for its end, killing it when it hangs; returns how it ended."""
        loop = asyncio.get_running_loop()
        os.set_blocking(self._pulse_fd, False)
        loop.add_reader(self._pulse_fd, self._felt)
        watching = asyncio.create_task(self._watch())
        try:
            code = await self._process.wait()
        finally:
            watching.cancel()
            loop.remove_reader(self._pulse_fd)
            os.close(self._pulse_fd)
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"
        return f"{self.spec.name} {how}" + (f" because it {self.trouble}" if self.trouble else "")

    def terminate(self) -> None:
        """Ask it to end; whoever does so decides how long it may take."""
        self._is_watched = False
        with suppress(ProcessLookupError):
            self._process.terminate()

    def hurry(self) -> None:
        """Ask it to end soon, once it was asked to end."""
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        """End it now, even if it is stopped."""
        with suppress(ProcessLookupError):
            self._process.kill()

    def _felt(self) -> None:
        beats = os.read(self._pulse_fd, 4096)
        if not beats:  # it has closed the pipe, and will end
            asyncio.get_running_loop().remove_reader(self._pulse_fd)
            return
        self._has_begun.set()
        self._is_ready.set()
        self._silent_beats = 0
        if beats.endswith(UNWELL):
            self._unwell_beats += 1
        else:
            self._unwell_beats = 0

    async def _watch(self) -> None:
        """Count beats rather than seconds: a supervisor that was stopped itself blames nobody."""
        await (
            self._has_begun.wait()
        )  # to start may take long: weights are fetched, kernels compiled
        while self.trouble is None:
            await asyncio.sleep(self._beat_s)
            self._silent_beats += 1
            if not self._is_watched:
                return
            if self._silent_beats > SILENT_BEATS:
                self.trouble = "gave no sign of life"
            elif self._unwell_beats > SILENT_BEATS:
                self.trouble = "said that it cannot work"
        self.kill()
