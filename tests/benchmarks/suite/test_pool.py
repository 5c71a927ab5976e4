"""Several folders of made-up results read as one."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.suite.errors import SuiteError
from benchmarks.suite.pool import read_pool
from benchmarks.suite.records import CellRecord, FailureRecord, Setting
from benchmarks.suite.report import write_report
from benchmarks.suite.results_folder import ResultsFolder
from tests.benchmarks.suite.conftest import MakeRecord

SETTING = Setting(
    backbone="some-backbone",
    backbone_digest="sha256:" + "ab" * 32,
    precision="fp32",
    max_test_images=None,
    tuning_epochs=0,
    prompts={"mnist": "0"},
)


def _folder(path: Path, *records: CellRecord, setting: Setting = SETTING) -> ResultsFolder:
    folder = ResultsFolder(path)
    folder.open(setting)
    for record in records:
        folder.add(record)
    return folder


@pytest.fixture
def seeds(make_record: MakeRecord) -> list[CellRecord]:
    """The same cell with two seeds."""
    return [make_record("none", "mnist", seed, np.arange(200) < 100) for seed in (0, 1)]


def test_seeds_of_two_folders_are_averaged(
    tmp_path: Path, make_record: MakeRecord, seeds: list[CellRecord]
) -> None:
    other = make_record("none", "mnist", 1, np.arange(200) < 140)
    one = _folder(tmp_path / "one", seeds[0])
    changes = {"precision": "bf16"}
    two = _folder(tmp_path / "two", other, setting=SETTING.model_copy(update=changes))

    report, *_ = write_report([one, two], tmp_path / "report")

    text = report.read_text()
    assert "| none | 0.600 |" in text
    assert "2 cells finished" in text
    assert "in fp32 and bf16" in text


def test_the_same_cell_does_not_count_twice(tmp_path: Path, seeds: list[CellRecord]) -> None:
    one, two = _folder(tmp_path / "one", *seeds), _folder(tmp_path / "two", seeds[1])
    with pytest.raises(SuiteError, match=r"two: another folder holds mnist, full shots, seed 1"):
        read_pool([one, two])


@pytest.mark.parametrize(
    ("field", "value"),
    [("tuning_epochs", 4), ("max_test_images", 300), ("backbone_digest", "b"), ("prompts", {})],
)
def test_other_settings_are_not_averaged(
    tmp_path: Path, seeds: list[CellRecord], field: str, value: object
) -> None:
    one = _folder(tmp_path / "one", seeds[0])
    other = SETTING.model_copy(update={field: value})
    two = _folder(tmp_path / "two", seeds[1], setting=other)
    with pytest.raises(SuiteError, match=rf"two has {field} = .*one has .*not to be averaged"):
        read_pool([one, two])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"options": {"shrinkage": 0.5}}, r"'none' with other options: \{'shrinkage': 0.5\}"),
        ({"task_digest": "sha256:1"}, "'mnist' with other images"),
    ],
)
def test_other_options_and_images_are_not_averaged(
    tmp_path: Path, seeds: list[CellRecord], changes: dict[str, object], message: str
) -> None:
    one = _folder(tmp_path / "one", seeds[0])
    two = _folder(tmp_path / "two", seeds[1].model_copy(update=changes))
    with pytest.raises(SuiteError, match=message):
        read_pool([one, two])


def test_an_empty_folder_is_named(tmp_path: Path, seeds: list[CellRecord]) -> None:
    one, two = _folder(tmp_path / "one", seeds[0]), _folder(tmp_path / "two")
    with pytest.raises(SuiteError, match="two holds no finished cell"):
        read_pool([one, two])


def test_a_refused_cell_that_another_folder_finished_is_not_missing(
    tmp_path: Path, seeds: list[CellRecord]
) -> None:
    one = _folder(tmp_path / "one", seeds[0])
    one.add(FailureRecord(cell=seeds[1].cell, error="too few images", run="r"))
    assert len(read_pool([one]).failures) == 1
    assert not read_pool([one, _folder(tmp_path / "two", seeds[1])]).failures
