"""One child process and its log."""

import logging
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import IO

from client.errors import StartError

MAX_LINE_BYTES = 64 * 1024
MAX_LOG_BYTES = 10_000_000
KEPT_LOGS = 2
RECENT_LINES = 20

OnLine = Callable[[str, str], None]
"""Called with a child's name and a line of its output, from another thread."""


@dataclass(frozen=True)
class ChildSpec:
    """A process to keep running.

    Attributes:
        name: What to call it.
        argv: The command.
        env: Its whole environment.
        cwd: Its working folder; None is ours.
        grace_s: How long it may take to end after SIGTERM before it is killed.
        ends_last: Whether others need it until they have ended.
    """

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: Path | None = None
    grace_s: float = 30.0
    ends_last: bool = False


class _LogFile(RotatingFileHandler):
    """A rotating file that tells once, not with every line, that it cannot be written."""

    def __init__(self, path: Path, on_failure: Callable[[str], None]) -> None:
        super().__init__(
            path, maxBytes=MAX_LOG_BYTES, backupCount=KEPT_LOGS, encoding="utf-8", delay=True
        )
        self._on_failure = on_failure
        self._failure: str | None = None

    def write(self, line: str) -> None:
        """Appends a line; while the disk is full, say, lines are lost."""
        before, self._failure = self._failure, None
        self.emit(logging.makeLogRecord({"msg": line}))
        if self._failure not in (None, before):
            self._on_failure(f"{self.baseFilename} cannot be written: {self._failure}")

    def close(self) -> None:
        """Closes the file, whether or not there is room for the end of it now."""
        with suppress(OSError):
            super().close()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002, N802  of `Handler`
        """Notes why a line could not be written."""
        error = sys.exc_info()[1]
        self._failure = error.strerror if isinstance(error, OSError) else repr(error)


class ChildLog:
    """Copies a child's output to a rotating file and remembers its latest lines."""

    def __init__(self, name: str, path: Path, on_line: OnLine) -> None:
        """Opens the file; the log of the previous run becomes `<path>.1`."""
        self.name = name
        self.path = path
        self.on_line = on_line
        self.recent: deque[str] = deque(maxlen=RECENT_LINES)
        self._file = _LogFile(path, lambda failure: on_line(name, failure))
        if path.exists():
            self._file.doRollover()
        path.touch()

    def follow(self, output: IO[bytes]) -> None:
        """Reads until the end of `output`; runs in a thread of its own."""
        with output:
            while line := output.readline(MAX_LINE_BYTES):
                text = line.decode("utf-8", errors="replace").rstrip()
                self.recent.append(text)
                self._file.write(text)
                self.on_line(self.name, text)

    def last_line(self) -> str:
        """The last line that is not blank, or ""."""
        return next((line.strip() for line in reversed(self.recent) if line.strip()), "")

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class Child:
    """A running process of a spec, in the process group that its supervisor chose."""

    def __init__(self, spec: ChildSpec, log: ChildLog, group: int) -> None:
        """Starts it.

        Raises:
            StartError: If the command cannot be run.
        """
        self.spec = spec
        self.log = log
        try:
            self.process = subprocess.Popen(  # noqa: S603  commands of our own
                spec.argv,
                env=dict(spec.env),
                cwd=spec.cwd,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                process_group=group,
            )
        except OSError as exc:
            raise StartError(f"cannot run {spec.argv[0]}: {exc.strerror}") from exc
        assert self.process.stdout is not None  # noqa: S101  stdout=PIPE
        self._reader = threading.Thread(
            target=log.follow, args=(self.process.stdout,), name=f"log-{spec.name}", daemon=True
        )
        self._reader.start()

    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        return self.process.poll() is None

    def terminate(self) -> None:
        """Asks it to end."""
        self.process.terminate()

    def kill(self) -> None:
        """Ends it now, even if it is stopped."""
        self.process.kill()

    def join(self, timeout_s: float = 2.0) -> None:
        """Reaps it and reads its output to the end, unless something else still holds that."""
        self.process.wait()
        self._reader.join(timeout_s)

    def how_it_ended(self) -> str:
        """A phrase with the exit status or signal."""
        code = self.process.wait()
        if code < 0:
            return f"{self.spec.name} was killed by {signal.Signals(-code).name}"
        return f"{self.spec.name} ended with exit status {code}"

    def last_words(self) -> str:
        """How it ended, what it said last, and where the rest is."""
        last = self.log.last_line()
        said = f" ({last})" if last else ""
        return f"{self.how_it_ended()}{said}; its log: {self.log.path}"
