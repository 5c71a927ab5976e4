import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from benchmarks.suite.cells import Cell
from benchmarks.suite.errors import SuiteError
from benchmarks.suite.records import FailureRecord, Setting
from benchmarks.suite.results_folder import ResultsFolder, append_line
from tests.benchmarks.suite.conftest import MakeRecord

SETTING = Setting(
    backbone="b",
    backbone_digest="sha256:0",
    precision="fp32",
    max_test_images=None,
    tuning_epochs=0,
    prompts={"mnist": "0"},
)
CORRECT = np.array([1, 0, 1, 1, 1, 0, 1, 1, 1, 1, 0], bool)


def test_records_come_back(tmp_path: Path, make_record: MakeRecord) -> None:
    results = ResultsFolder(tmp_path)
    record = make_record("mean", "mnist", 0, CORRECT)
    results.add(record)
    assert results.cells() == {record.cell: record}
    assert results.cells()[record.cell].correct().tolist() == CORRECT.tolist()


@pytest.mark.parametrize("cut", [1, 2, 200])
def test_a_torn_last_line_is_left_out_and_then_replaced(
    tmp_path: Path, make_record: MakeRecord, cut: int
) -> None:
    results = ResultsFolder(tmp_path)
    records = [make_record("mean", "mnist", seed, CORRECT) for seed in range(3)]
    for record in records[:2]:
        results.add(record)
    path = tmp_path / "cells.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    assert list(results.cells()) == [records[0].cell]
    results.add(records[1])
    results.add(records[2])
    assert set(results.cells()) == {record.cell for record in records}


def test_a_damaged_line_elsewhere_is_an_error(tmp_path: Path, make_record: MakeRecord) -> None:
    results = ResultsFolder(tmp_path)
    results.add(make_record("mean", "mnist", 0, CORRECT))
    append_line(tmp_path / "cells.jsonl", '{"cell": 1}')
    with pytest.raises(SuiteError, match=r"cells\.jsonl, line 2"):
        results.cells()


def test_of_a_cell_computed_twice_the_first_counts(tmp_path: Path, make_record: MakeRecord) -> None:
    results = ResultsFolder(tmp_path)
    results.add(make_record("mean", "mnist", 0, CORRECT))
    results.add(make_record("mean", "mnist", 0, ~CORRECT))
    (record,) = results.cells().values()
    assert record.correct().tolist() == CORRECT.tolist()


def test_a_record_is_brought_to_the_disk(
    tmp_path: Path, make_record: MakeRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    fsync = os.fsync

    def spy(descriptor: int) -> None:
        fsync(descriptor)
        sizes.append(os.fstat(descriptor).st_size)

    monkeypatch.setattr(os, "fsync", spy)
    ResultsFolder(tmp_path).add(make_record("mean", "mnist", 0, CORRECT))
    assert sizes == [(tmp_path / "cells.jsonl").stat().st_size]


def _append_many(path: Path, writer: int) -> None:
    for number in range(50):
        append_line(path, f"{writer} {number} " + "x" * 3000)


def test_concurrent_writers_append_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    # The lock belongs to the open file, so threads stand for processes.
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(_append_many, path, writer) for writer in range(4)]:
            done.result()
    lines = path.read_text().splitlines()
    assert {len(line.split()[2]) for line in lines} == {3000}
    assert {tuple(line.split()[:2]) for line in lines} == {
        (str(writer), str(number)) for writer in range(4) for number in range(50)
    }


def test_a_folder_is_of_one_setting(tmp_path: Path) -> None:
    results = ResultsFolder(tmp_path / "new")
    results.open(SETTING)
    results.open(SETTING)
    assert results.setting() == SETTING
    assert [path.name for path in results.path.iterdir()] == ["setting.json"]
    other = SETTING.model_copy(update={"tuning_epochs": 5})
    with pytest.raises(SuiteError, match="tuning_epochs = 0, this run has 5; choose another"):
        results.open(other)


def test_a_folder_without_results_says_so(tmp_path: Path) -> None:
    with pytest.raises(SuiteError, match=r"no setting\.json"):
        ResultsFolder(tmp_path).setting()


def test_a_failure_is_forgotten_once_the_cell_is_finished(
    tmp_path: Path, make_record: MakeRecord
) -> None:
    results = ResultsFolder(tmp_path)
    record = make_record("mean", "mnist", 0, CORRECT)
    other = Cell("mnist", 10, 0, 3, "mean")
    for error in ("too few", "too few in class a"):
        for cell in (record.cell, other):
            results.add(FailureRecord(cell=cell, error=error, run="r"))
    results.add(record)
    assert {cell: f.error for cell, f in results.failures().items()} == {
        other: "too few in class a"
    }
