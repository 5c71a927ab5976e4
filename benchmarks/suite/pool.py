"""Several folders of results, read as one: other seeds, tasks or numbers of sources."""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.suite.cells import Cell
from benchmarks.suite.errors import SuiteError
from benchmarks.suite.records import CellRecord, FailureRecord, RunRecord, Setting
from benchmarks.suite.results_folder import ResultsFolder

_MAY_DIFFER = ("precision",)


@dataclass(frozen=True)
class Pool:
    """What the folders hold together.

    Attributes:
        settings: One a folder.
        runs: Of all folders.
        cells: Each finished in one folder.
        failures: Refused cells that no folder finished.
    """

    settings: tuple[Setting, ...]
    runs: list[RunRecord]
    cells: dict[Cell, CellRecord]
    failures: dict[Cell, FailureRecord]


def read_pool(folders: Sequence[ResultsFolder]) -> Pool:
    """Read the folders as one.

    Raises:
        SuiteError: A folder holds no finished cell or is damaged; two differ in their settings
            (the precision may), in the options of a method or in the images of a task; or the
            same cell lies in two, whose seeds would count twice.
    """
    settings = tuple(folder.setting() for folder in folders)
    for folder, setting in zip(folders[1:], settings[1:], strict=True):
        _check_setting(folders[0], settings[0], folder, setting)
    cells: dict[Cell, CellRecord] = {}
    options: dict[str, CellRecord] = {}
    tasks: dict[str, CellRecord] = {}
    for folder in folders:
        found = folder.cells()
        if not found:
            raise SuiteError(f"{folder.path} holds no finished cell")
        for cell, record in found.items():
            if cell in cells:
                raise SuiteError(f"{folder.path}: another folder holds {cell} too")
            if options.setdefault(cell.variant, record).options != record.options:
                raise SuiteError(
                    f"{folder.path} holds {cell.variant!r} with other options: {record.options}, "
                    f"not {options[cell.variant].options}"
                )
            if tasks.setdefault(cell.target, record).task_digest != record.task_digest:
                raise SuiteError(f"{folder.path} holds {cell.target!r} with other images")
            cells[cell] = record
    failures = {c: f for folder in folders for c, f in folder.failures().items() if c not in cells}
    return Pool(settings, [run for folder in folders for run in folder.runs()], cells, failures)


def _check_setting(
    first: ResultsFolder, expected: Setting, folder: ResultsFolder, setting: Setting
) -> None:
    for field in Setting.model_fields:
        one, other = getattr(expected, field), getattr(setting, field)
        if field not in _MAY_DIFFER and one != other:
            raise SuiteError(
                f"{folder.path} has {field} = {other}, {first.path} has {one}: not to be averaged"
            )
