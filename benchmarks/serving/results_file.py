"""The file of one command's results: one JSON line a finished unit of work, newest last."""

from pathlib import Path
from typing import TypeVar

from benchmarks.serving.records import Record
from benchmarks.suite.results_folder import append_line, read_lines

Kind = TypeVar("Kind", bound=Record)


class ResultsFile:
    """Results that several starts of a command add to.

    Args:
        path: The file; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, record: Record) -> None:
        """Append a finished unit."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        append_line(self.path, record.model_dump_json())

    def read(self, kind: type[Kind]) -> list[Kind]:
        """Return all units, oldest first.

        Raises:
            SuiteError: A line is no such record.
        """
        return read_lines(self.path, kind)
