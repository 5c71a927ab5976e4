"""The command on small real tasks: from archives and prompts to results and a report."""

import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.suite import variants
from benchmarks.suite.__main__ import MIN_SHOTS, main
from benchmarks.suite.results_folder import ResultsFolder
from benchmarks.suite.target_tasks import ArchiveTasks
from benchmarks.suite.variants import VALIDATION_FRACTION
from ensemble.errors import TooFewImagesError
from ensemble.splits import stratified_split
from images.preprocessing import Preprocessing
from tests.benchmarks.suite.conftest import NUM_CLASSES, TARGETS, write_archive

ROOT = Path(__file__).parents[3]
SMALL = ["--shots", "5", "--sources", "2", "3", "--seed", "0", "1", "--tuning-epochs", "0"]
METHODS = ["--method", "none", "single", "mean", "hgprompt"]
# Both targets have 4 allowed sources: 2 seeds of 1 + 3 * 2 cells each.
NUM_CELLS = 2 * 2 * 7


def _arguments(tasks: Path, prompts: Path, out: Path, *more: str) -> list[str]:
    paths = ["--tasks", str(tasks), "--prompts", str(prompts), "--out", str(out)]
    return ["run", *paths, *METHODS, *SMALL, *more]


def _predictions(out: Path) -> dict[object, str]:
    return {cell: record.test_correct for cell, record in ResultsFolder(out).cells().items()}


def test_a_killed_run_goes_on_and_finds_what_an_undisturbed_one_does(
    tasks: Path, prompts: Path, tmp_path: Path
) -> None:
    killed, undisturbed = tmp_path / "killed", tmp_path / "undisturbed"
    arguments = _arguments(tasks, prompts, killed)
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.suite", *arguments], cwd=ROOT)
    cells = killed / "cells.jsonl"
    try:
        deadline = time.monotonic() + 120
        while not cells.exists() or cells.read_bytes().count(b"\n") < 3:
            assert process.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < deadline, "no cell after two minutes"
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    before = cells.read_bytes()
    num_before = before.count(b"\n")
    assert 3 <= num_before < NUM_CELLS
    with cells.open("ab") as file:
        file.write(b'{"cell":{"target":"cou')

    assert main(arguments) == 0
    assert main(_arguments(tasks, prompts, undisturbed)) == 0

    assert cells.read_bytes().startswith(before)
    assert cells.read_bytes().count(b"\n") == NUM_CELLS
    assert _predictions(killed) == _predictions(undisturbed)
    by_run = Counter(record.run for record in ResultsFolder(killed).cells().values())
    counts = [by_run[run.run] for run in ResultsFolder(killed).runs()]
    assert counts == [num_before, NUM_CELLS - num_before]

    assert main(arguments) == 0
    assert len(ResultsFolder(killed).runs()) == 2, "nothing was left to do"


def test_shards_together_are_the_whole_and_the_report_reads_them(
    tasks: Path, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main(_arguments(tasks, prompts, whole)) == 0
    for shard in ("3/3", "1/3", "2/3"):
        assert main(_arguments(tasks, prompts, parts, "--shard", shard)) == 0
    # Which images were together in a batch changes the last digits, so not every bit is equal.
    records = [ResultsFolder(out).cells() for out in (whole, parts)]
    assert records[0].keys() == records[1].keys()
    assert len(records[0]) == NUM_CELLS
    for cell, record in records[0].items():
        assert record.sources == records[1][cell].sources
        assert abs(record.test_accuracy - records[1][cell].test_accuracy) <= 2 / 36
        assert record.num_images == 5 * NUM_CLASSES
    capsys.readouterr()
    assert main(["report", "--results", str(parts), "--out", str(tmp_path / "report")]) == 0
    for name in capsys.readouterr().out.splitlines():
        assert Path(name).stat().st_size > 500
    report = (tmp_path / "report" / "report.md").read_text()
    assert f"{NUM_CELLS} cells finished, 0 missing" in report
    assert "Nothing: every cell that was asked for is there." in report


def test_a_target_is_never_its_own_source(tasks: Path, prompts: Path, tmp_path: Path) -> None:
    assert main(_arguments(tasks, prompts, tmp_path / "out", "--target", "mnist")) == 0
    sources = {s for r in ResultsFolder(tmp_path / "out").cells().values() for s in r.sources}
    assert sources == {"count", "digits", "emoji-group", "texture"}


def test_methods_that_tune_and_ablations_run(tasks: Path, prompts: Path, tmp_path: Path) -> None:
    arguments = _arguments(tasks, prompts, tmp_path / "out", "--target", "mnist", "--seed", "0")
    start = arguments.index("--method")
    end = arguments.index("--shots")
    arguments[start:end] = ["--method", "vpt", "hgprompt-unaligned", "hgprompt-untuned"]
    arguments[arguments.index("--tuning-epochs") + 1] = "1"
    assert main(arguments) == 0
    options = {c.variant: r.options for c, r in ResultsFolder(tmp_path / "out").cells().items()}
    assert {name: (o["tuning_epochs"], o["align"]) for name, o in options.items()} == {
        "vpt": (1, True),
        "hgprompt-unaligned": (1, False),
        "hgprompt-untuned": (0, True),
    }


def test_changed_inputs_are_not_mixed_into_old_results(
    tasks: Path, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, copy = tmp_path / "out", tmp_path / "tasks"
    shutil.copytree(tasks, copy)
    few = ("--target", "mnist", "--method", "none", "--seed", "0")
    assert main(_arguments(copy, prompts, out, *few)) == 0
    write_archive(copy / "mnist" / "test.zip", 12, seed=999)
    for changed, error in (
        (("--seed", "1"), "holds mnist as sha256:"),
        (("--tuning-epochs", "2"), "tuning_epochs = 0, this run has 2"),
        (("--max-test-images", "5"), "max_test_images = None, this run has 5"),
    ):
        assert main(_arguments(copy, prompts, out, *few, *changed)) == 1
        assert error in capsys.readouterr().err


FEW = ("--target", "mnist", "--method", "none", "--seed", "0")


def test_other_prompts_precision_and_options_are_not_mixed_into_old_results(
    tasks: Path,
    prompts: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out, copy = tmp_path / "out", tmp_path / "prompts"
    assert main(_arguments(tasks, prompts, out, *FEW)) == 0
    shutil.copytree(prompts, copy)
    shutil.copy(copy / "digits.safetensors", copy / "texture.safetensors")
    assert main(_arguments(tasks, copy, out, *FEW)) == 1
    assert "holds results with prompts = {" in capsys.readouterr().err
    with monkeypatch.context() as patched:
        patched.setenv("HGPROMPT_PRECISION", "bf16")
        assert main(_arguments(tasks, prompts, out, *FEW)) == 1
    assert "precision = fp32, this run has bf16" in capsys.readouterr().err
    # As a later version may have it: no argument says so.
    monkeypatch.setattr(variants, "VALIDATION_FRACTION", 0.3)
    assert main(_arguments(tasks, prompts, out, *FEW, "--seed", "1")) == 1
    assert "holds 'none' with the options {" in capsys.readouterr().err


def test_each_precision_has_features_of_its_own(
    tasks: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for precision in ("fp32", "bf16"):
        monkeypatch.setenv("HGPROMPT_PRECISION", precision)
        arguments = _arguments(tasks, prompts, tmp_path / precision, *FEW)
        assert main([*arguments, "--cache", str(tmp_path / "f")]) == 0
    assert len(list((tmp_path / "f").iterdir())) == 2


def test_nothing_is_cut_off_the_images(
    tasks: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Preprocessing] = []
    load = ArchiveTasks.load

    def spy(folder: ArchiveTasks, name: str, preprocessing: Preprocessing, most: int | None) -> Any:
        seen.append(preprocessing)
        return load(folder, name, preprocessing, most)

    monkeypatch.setattr(ArchiveTasks, "load", spy)
    assert main(_arguments(tasks, prompts, tmp_path / "out", *FEW)) == 0
    assert [(each.crop_mode, each.crop_pct) for each in seen] == [("squash", 1.0)]


def test_a_refused_cell_is_told_though_later_ones_are_finished(
    tasks: Path, prompts: Path, tmp_path: Path
) -> None:
    copy, out = tmp_path / "tasks", tmp_path / "out"
    shutil.copytree(tasks, copy)
    for half in ("pool.zip", "test.zip"):
        write_archive(copy / "count" / half, 1, seed=0)  # nothing can be held out
    assert main(_arguments(copy, prompts, out, *FEW, "--target", "count", "mnist")) == 1
    assert [cell.target for cell in ResultsFolder(out).cells()] == ["mnist"]


def test_a_refused_cell_is_reported_and_tried_again(
    prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy, out = tmp_path / "tasks", tmp_path / "out"
    for half in ("pool.zip", "test.zip"):
        write_archive(copy / "mnist" / half, 1, seed=0)  # nothing can be held out
    few = ("--method", "none", "--seed", "0")
    assert main(_arguments(copy, prompts, out, *few)) == 1
    assert "refused, 3 images in 3 classes: none is large enough" in capsys.readouterr().err
    (failure,) = ResultsFolder(out).failures().values()
    assert failure.cell.target == "mnist"
    assert main(_arguments(copy, prompts, out, *few)) == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
def test_a_gpu_finds_about_what_the_cpu_does(
    tasks: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for device in ("cpu", "cuda"):
        monkeypatch.setenv("HGPROMPT_DEVICE", device)
        arguments = _arguments(tasks, prompts, tmp_path / device, "--cache", str(tmp_path / "f"))
        assert main(arguments) == 0
    on_cpu, on_gpu = (ResultsFolder(tmp_path / device) for device in ("cpu", "cuda"))
    assert [run.machine.device == "cpu" for run in (*on_cpu.runs(), *on_gpu.runs())] == [
        True,
        False,
    ]
    differences = [
        record.test_accuracy - on_cpu.cells()[cell].test_accuracy
        for cell, record in on_gpu.cells().items()
    ]
    assert len(differences) == NUM_CELLS
    assert abs(sum(differences)) / NUM_CELLS < 0.02
    # Each kind of device has its own features: their last digits differ.
    assert len(list((tmp_path / "f").iterdir())) == 2


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--target", "other"], "target 'other' is not one of count, mnist"),
        (["--method", "other"], "method 'other' is not one of"),
        (["--method", "vpt"], "tuning_epochs must be 1 or more"),
        (["--shard", "2/1"], "shard '2/1'"),
        (["--tasks", "absent"], "absent holds no tasks"),
        (["--prompts", "absent"], "absent holds no *.safetensors"),
    ],
)
def test_wrong_arguments_are_named(
    tasks: Path,
    prompts: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    error: str,
) -> None:
    assert main(_arguments(tasks, prompts, tmp_path / "out", *arguments)) == 1
    assert error in capsys.readouterr().err


@pytest.mark.parametrize("shots", ["0", "2"])
def test_too_few_shots_to_hold_one_out_are_refused_at_once(
    tasks: Path, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], shots: str
) -> None:
    with pytest.raises(SystemExit):
        main(_arguments(tasks, prompts, tmp_path / "out", "--shots", shots))
    assert f"--shots: {shots} is below 3" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_fewest_shots_leave_an_image_to_hold_out() -> None:
    labels = torch.arange(2).repeat(MIN_SHOTS)
    assert len(stratified_split(labels, VALIDATION_FRACTION, 0)[1]) == 2
    with pytest.raises(TooFewImagesError):
        stratified_split(labels[2:], VALIDATION_FRACTION, 0)


def test_the_tasks_have_the_names_that_the_tests_assume(tasks: Path) -> None:
    assert sorted(path.name for path in tasks.iterdir()) == sorted(TARGETS)
