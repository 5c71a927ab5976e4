"""The folder of results: three files of JSON lines that only grow, and the setting.

    setting.json     what all cells have in common, written once
    runs.jsonl       one line a start of the command
    cells.jsonl      one line a finished cell
    failures.jsonl   one line a refused cell

A line is appended in one write under a lock, and synchronised. After a kill the last line may lack
its end: readers leave it out and the next writer cuts it off, so its cell is computed again.
"""

import fcntl
import os
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from benchmarks.suite.cells import Cell
from benchmarks.suite.errors import SuiteError
from benchmarks.suite.records import CellRecord, FailureRecord, RunRecord, Setting

Record = TypeVar("Record", bound=BaseModel)
_TAIL_BYTES = 1 << 20


class ResultsFolder:
    """Reads and extends one folder of results; safe for several processes at once."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self, setting: Setting) -> None:
        """Create the folder for a setting, or check that it was created for the same one.

        Raises:
            SuiteError: It holds results of another setting.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        path = self.path / "setting.json"
        partial = self.path / f"setting.{os.getpid()}.partial"
        partial.write_text(setting.model_dump_json(indent=1) + "\n")
        try:
            os.link(partial, path)  # create-only, whole
        except FileExistsError:
            _check_same(self.setting(), setting, self.path)
        finally:
            partial.unlink()

    def setting(self) -> Setting:
        """Return the setting.

        Raises:
            SuiteError: There is none, or it is of another format.
        """
        path = self.path / "setting.json"
        if not path.exists():
            raise SuiteError(f"{self.path} holds no results of the suite: no setting.json")
        try:
            return Setting.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise SuiteError(f"{path}: {error}") from error

    def add(self, record: RunRecord | CellRecord | FailureRecord) -> None:
        """Append a record to its file."""
        names: dict[type[BaseModel], str] = {
            RunRecord: "runs.jsonl",
            CellRecord: "cells.jsonl",
            FailureRecord: "failures.jsonl",
        }
        append_line(self.path / names[type(record)], record.model_dump_json())

    def runs(self) -> list[RunRecord]:
        """Return all runs, oldest first."""
        return read_lines(self.path / "runs.jsonl", RunRecord)

    def cells(self) -> dict[Cell, CellRecord]:
        """Return every finished cell; of one that was computed twice, the first."""
        records = read_lines(self.path / "cells.jsonl", CellRecord)
        return {record.cell: record for record in reversed(records)}

    def failures(self) -> dict[Cell, FailureRecord]:
        """Return the latest failure of each cell that has not been finished since."""
        done = self.cells()
        records = read_lines(self.path / "failures.jsonl", FailureRecord)
        return {record.cell: record for record in records if record.cell not in done}


def append_line(path: Path, line: str) -> None:
    """Append a line, after cutting off what a killed writer left of its own."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        size = os.fstat(descriptor).st_size
        start = max(0, size - _TAIL_BYTES)
        end = start + os.pread(descriptor, _TAIL_BYTES, start).rfind(b"\n") + 1
        os.ftruncate(descriptor, end)
        os.lseek(descriptor, end, os.SEEK_SET)
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(line.encode() + b"\n")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_lines(path: Path, kind: type[Record]) -> list[Record]:
    """Return the records of a file, without a last line that was not finished.

    Raises:
        SuiteError: Another line is not such a record.
    """
    if not path.exists():
        return []
    *lines, _unfinished = path.read_bytes().split(b"\n")
    records: list[Record] = []
    for number, line in enumerate(lines, start=1):
        try:
            records.append(kind.model_validate_json(line))
        except ValidationError as error:
            raise SuiteError(f"{path}, line {number}: {error}") from error
    return records


def _check_same(there: Setting, here: Setting, path: Path) -> None:
    """Refuse to mix settings in one folder."""
    for field in Setting.model_fields:
        old, new = getattr(there, field), getattr(here, field)
        if old != new:
            raise SuiteError(
                f"{path} holds results with {field} = {old}, this run has {new}; "
                "choose another --out"
            )
