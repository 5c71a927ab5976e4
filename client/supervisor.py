"""Keeps child processes running, and leaves none behind.

All children live in one process group whose first member is a guardian (`client.guardian`): if
this process vanishes without a word, the guardian ends the group. The group is in the session
of the terminal but not in its foreground, so Ctrl-C reaches only this process, which then
ends the children in order.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from client import guardian
from client.child import Child, ChildLog, ChildSpec
from client.errors import StartError, StopRequestedError
from client.hooks import Hooks

POLL_S = 0.1
CRASH_GRACE_S = 10.0  # what the children get to end in when this process has vanished


@dataclass(frozen=True)
class RestartPolicy:
    """When a child that ended is started again.

    Attributes:
        healthy_s: One that ran for this long starts again with a clean slate.
        max_quick_deaths: After so many ends in a row, each sooner than that, it is given up.
        first_delay_s: Pause before the first restart; doubles with each quick end.
        max_delay_s: The longest pause.
    """

    healthy_s: float = 10.0
    max_quick_deaths: int = 6
    first_delay_s: float = 0.5
    max_delay_s: float = 15.0

    def delay_s(self, quick_deaths: int) -> float:
        """Seconds to wait before the next start."""
        return min(self.first_delay_s * 2 ** max(quick_deaths - 1, 0), self.max_delay_s)


@dataclass
class _Watched:
    spec: ChildSpec
    log: ChildLog
    child: Child
    started_at_s: float
    quick_deaths: int = 0
    restart_at_s: float | None = None


class Supervisor:
    """Starts children, restarts those that die, ends all of them when it is left.

    Not safe for use by several threads at once.
    """

    def __init__(
        self,
        log_dir: Path,
        hooks: Hooks,
        *,
        policy: RestartPolicy,
        held_fds: tuple[int, ...] = (),
    ) -> None:
        """Starts nothing yet.

        Args:
            log_dir: Existing folder for `<child>.log`.
            hooks: Where news go.
            policy: When to restart.
            held_fds: File descriptors that the guardian keeps open until the children have
                ended, even if this process has vanished: a lock, for instance.
        """
        self._log_dir = log_dir
        self._hooks = hooks
        self._policy = policy
        self._held_fds = held_fds
        self._watched: dict[str, _Watched] = {}
        self._guardian: subprocess.Popen[bytes] | None = None
        self._group = 0

    def __enter__(self) -> Self:
        self._guardian = self._start_guardian(group=0)
        self._group = self._guardian.pid
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _start_guardian(self, group: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(  # noqa: S603  our own script
            [sys.executable, "-I", "-S", guardian.__file__, str(CRASH_GRACE_S)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            process_group=group,
            pass_fds=self._held_fds,
        )

    def start(self, spec: ChildSpec) -> None:
        """Starts a child; it is kept running from now on.

        Raises:
            StartError: If its command cannot be run.
        """
        log = ChildLog(spec.name, self._log_dir / f"{spec.name}.log", self._hooks.line)
        child = Child(spec, log, self._group)
        self._watched[spec.name] = _Watched(spec, log, child, time.monotonic())

    def wait_until(self, name: str, ready: Callable[[], bool], timeout_s: float, what: str) -> None:
        """Waits for a child that has just been started; any child that ends meanwhile is fatal.

        Args:
            name: The child.
            ready: Whether it is up; asked again and again.
            timeout_s: When to give up.
            what: What it should have done, for the message.

        Raises:
            StartError: If a child ended, or this one was not ready in time.
            StopRequestedError: If the user asked to stop.
        """
        deadline_s = time.monotonic() + timeout_s
        while True:
            for watched in self._watched.values():
                if not watched.child.is_running():
                    watched.child.join()
                    raise StartError(watched.child.last_words())
            if ready():
                return
            if self._hooks.stop_requests():
                raise StopRequestedError("stopped while starting")
            if time.monotonic() > deadline_s:
                raise StartError(f"{name} did not {what} within {timeout_s:g} s")
            time.sleep(POLL_S)

    def check(self) -> None:
        """Notices children that have died and starts them again when it is time; call it often.

        Raises:
            StartError: If a child keeps dying.
        """
        if self._guardian is not None and self._guardian.poll() is not None:
            self._close_guardian()
            self._guardian = self._start_guardian(self._group)
        now_s = time.monotonic()
        for watched in self._watched.values():
            if watched.restart_at_s is None:
                if not watched.child.is_running():
                    self._note_death(watched, now_s)
            elif now_s >= watched.restart_at_s:
                watched.child = Child(watched.spec, watched.log, self._group)
                watched.started_at_s, watched.restart_at_s = now_s, None

    def _note_death(self, watched: _Watched, now_s: float) -> None:
        watched.child.join()
        if now_s - watched.started_at_s >= self._policy.healthy_s:
            watched.quick_deaths = 0
        watched.quick_deaths += 1
        if watched.quick_deaths >= self._policy.max_quick_deaths:
            raise StartError(
                f"{watched.child.last_words()}; gave up after {watched.quick_deaths} quick ends"
            )
        delay_s = self._policy.delay_s(watched.quick_deaths)
        watched.restart_at_s = now_s + delay_s
        self._hooks.note(f"{watched.child.how_it_ended()}; restarting it in {delay_s:g} s")

    def stop(self) -> None:
        """Ends all children: those that need others first, then the rest. May be repeated."""
        children = [w.child for w in self._watched.values()]
        for last in (False, True):
            self._end([c for c in children if c.spec.ends_last == last])
        self._end_guardian()
        for watched in self._watched.values():
            watched.child.join()
            watched.log.close()
        self._watched.clear()

    def _end(self, children: list[Child]) -> None:
        asked_at_s = time.monotonic()
        for child in children:
            child.terminate()
        while running := [child for child in children if child.is_running()]:
            waited_s = time.monotonic() - asked_at_s
            for child in running:
                if self._hooks.stop_requests() > 1 or waited_s > child.spec.grace_s:
                    child.kill()
            time.sleep(POLL_S / 2)

    def _end_guardian(self) -> None:
        """Kills the group: the guardian and whatever the children started and left behind."""
        if self._guardian is None:
            return
        if self._guardian.poll() is None:
            os.killpg(self._group, signal.SIGKILL)
        self._close_guardian()
        self._guardian = None

    def _close_guardian(self) -> None:
        assert self._guardian is not None  # noqa: S101  both callers have looked
        assert self._guardian.stdin is not None  # noqa: S101  stdin=PIPE
        self._guardian.wait()
        self._guardian.stdin.close()
