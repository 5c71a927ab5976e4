"""Shows a local deployment's start and its children's output."""

import json
import threading
from collections.abc import Callable
from typing import Self

from rich.console import Console
from rich.status import Status
from rich.text import Text

from client.hooks import Hooks
from client.up import REDIS

SERIOUS_LEVELS = frozenset({"WARNING", "ERROR", "CRITICAL"})
_NAME_STYLES = {REDIS: "magenta", "service": "cyan", "worker": "green"}


class DeploymentView:
    """Writes to one console; `hooks` may be called from any thread.

    Use it as a context manager around the start; afterwards it goes on printing lines.
    """

    def __init__(
        self,
        console: Console,
        *,
        verbose: bool,
        stop_requests: Callable[[], int] = lambda: 0,
    ) -> None:
        """Prints all output of the children if `verbose`, else only what is serious."""
        self._stop_requests = stop_requests
        self._console = console
        self._verbose = verbose
        self._lock = threading.Lock()
        self._status: Status | None = None
        self._shown = ""

    @property
    def hooks(self) -> Hooks:
        """What to give to `local_deployment`."""
        return Hooks(self.stage, self.note, self.line, self._stop_requests)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.started()

    def started(self) -> None:
        """Ends the spinner."""
        with self._lock:
            if self._status is not None:
                self._status.stop()
                self._status = None

    def stage(self, text: str) -> None:
        """Shows what is being waited for: a spinner on a terminal, a line in a log."""
        with self._lock:
            if text == self._shown:
                return
            self._shown = text
            if not self._console.is_terminal:
                self._print(Text(f"{text} ..."))
            elif self._status is None:
                self._status = self._console.status(Text(text))
                self._status.start()
            else:
                self._status.update(Text(text))

    def note(self, text: str) -> None:
        """Prints a warning."""
        with self._lock:
            self._print(Text(text, style="yellow"))

    def line(self, name: str, line: str) -> None:
        """Prints a line of a child's output, if it is wanted."""
        level, message = parse_log_line(line)
        if not message.strip():
            return
        serious = level in SERIOUS_LEVELS or (level is None and name != REDIS)
        if self._verbose or serious:
            with self._lock:
                self._print(Text.assemble((f"{name:>7} | ", _NAME_STYLES.get(name, "")), message))

    def _print(self, text: Text) -> None:
        """Prints a line; after one that cannot be written none, and everything else goes on."""
        try:
            self._console.print(text, soft_wrap=True)
        except (OSError, SystemExit):  # the latter is what rich makes of a broken pipe
            self._console.quiet = True


def parse_log_line(line: str) -> tuple[str | None, str]:
    """Takes level and message out of a JSON log line; (None, line) for any other line."""
    if not line.startswith("{"):
        return None, line
    try:
        record = json.loads(line)
    except json.JSONDecodeError:
        return None, line
    message = str(record.get("message", line))
    last = str(record.get("exc_info", "")).strip().rpartition("\n")[2]
    return str(record.get("level", "INFO")), f"{message} ({last})" if last else message
