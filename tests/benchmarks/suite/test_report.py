"""The report of made-up results whose right answers are known."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.reporting.machine import Machine
from benchmarks.suite.cells import Plan
from benchmarks.suite.errors import SuiteError
from benchmarks.suite.intervals import compared
from benchmarks.suite.never_worse import never_worse_table, worse_table
from benchmarks.suite.panel import Panel
from benchmarks.suite.records import RunRecord, Setting
from benchmarks.suite.report import make_panels, write_report
from benchmarks.suite.results_folder import ResultsFolder
from benchmarks.suite.sections import (
    accuracy_table,
    difference_table,
    gains,
    group_table,
    main_panel,
    more_sources_table,
    paired_differences,
)
from tests.benchmarks.suite.conftest import MakeRecord

IMAGES = 200
TASKS = {"mnist": 0.70, "count": 0.60, "digits": 0.80, "texture": 0.65}
# Added to a task's accuracy: mean is 0.10 below hgprompt, single equals it, none is in between.
GAINS = {"hgprompt": 0.10, "none": 0.04, "single": 0.10, "mean": 0.0}


def _correct(accuracy: float, seed: int) -> np.ndarray:
    """Whether each image is right: the same images for all methods, each seed shifted a little."""
    number = round((accuracy + 0.01 * (seed - 1)) * IMAGES)
    return np.arange(IMAGES) < number


@pytest.fixture
def results(tmp_path: Path, make_record: MakeRecord) -> ResultsFolder:
    results = ResultsFolder(tmp_path / "results")
    results.open(
        Setting(
            backbone="some-backbone",
            backbone_digest="sha256:" + "ab" * 32,
            precision="bf16",
            max_test_images=IMAGES,
            tuning_epochs=4,
            prompts={"mnist": "0", "count": "1"},
        )
    )
    machine = Machine(
        processor="some processor",
        num_cores=2,
        num_threads=1,
        device="cpu",
        system="some system",
        versions={"torch": "1.2.3"},
        commit="c0ffee+",
    )
    plan = Plan(
        targets=dict.fromkeys(TASKS, 5) | {"mnist": 2},
        shots=("full",),
        seeds=(0, 1, 2),
        num_sources=(3, 5),
        variants={name: name != "none" for name in GAINS},
    )
    results.add(
        RunRecord(run="run-1", command="the command", started_at="now", machine=machine, plan=plan)
    )
    for cell in plan.cells():
        unfinished = cell.target == "texture" and cell.num_sources == 5
        if unfinished and cell.variant == "hgprompt":
            continue
        accuracy = TASKS[cell.target] + GAINS[cell.variant]
        correct = _correct(accuracy, cell.seed)
        results.add(make_record(cell.variant, cell.target, cell.seed, correct, cell.num_sources))
    return results


def test_means_are_over_the_tasks_that_all_finished(results: ResultsFolder) -> None:
    lines = accuracy_table(make_panels(results.cells(), "full")).splitlines()
    assert lines[0] == "| method | M = 3 (3 tasks) | M = 5 (2 tasks) |"
    # mnist has too few sources; texture lacks hgprompt with 5 of them.
    assert "| hgprompt | 0.783 | 0.800 |" in lines
    assert "| none | 0.723 | 0.740 |" in lines


def test_cells_of_other_shots_are_in_a_panel_of_their_own(make_record: MakeRecord) -> None:
    full, few = (make_record("hgprompt", "mnist", 0, np.arange(IMAGES) < n) for n in (100, 50))
    few = few.model_copy(update={"cell": replace(few.cell, shots=10)})
    cells = {record.cell: record for record in (full, few)}
    for shots, accuracy in (("full", 0.5), (10, 0.25)):
        (panel,) = make_panels(cells, shots)
        assert panel.accuracies(["hgprompt"], ["mnist"]).item() == accuracy


def test_differences_are_paired_by_task(results: ResultsFolder) -> None:
    panels = make_panels(results.cells(), "full")
    assert paired_differences(panels[0], "mean") == pytest.approx([0.1, 0.1, 0.1])
    text = difference_table(panels)
    assert text is not None
    assert "| mean | +0.100 [+0.100, +0.100] (3-0-0) | +0.100 [+0.100, +0.100] (2-0-0) |" in text
    assert "| single | +0.000 [+0.000, +0.000] (0-3-0) |" in text


def test_differences_by_group_are_over_its_tasks(make_record: MakeRecord) -> None:
    numbers = {"mnist": 20, "digits": 30, "count": 60}
    cells = {
        record.cell: record
        for variant, gain in (("hgprompt", 10), ("mean", 0))
        for task, number in numbers.items()
        if (record := make_record(variant, task, 0, np.arange(IMAGES) < number + gain))
    }
    (panel,) = make_panels(cells, "full")
    text = group_table(panel)
    assert text is not None
    lines = text.splitlines()
    assert lines[0] == "| hgprompt minus | natural (2 tasks) | structured (1 tasks) |"
    assert lines[2] == "| mean | +0.050 [+0.050, +0.050] (2-0-0) | +0.050 (1-0-0) |"
    assert group_table(panel.without({"count"})) is None


def test_the_same_accuracies_in_other_seeds_are_a_tie(make_record: MakeRecord) -> None:
    """Of three seeds 20, 40 and 60 of 200 images, or the same from last to first."""
    numbers = [20, 40, 60]
    cells = {
        record.cell: record
        for variant, counts in (("hgprompt", numbers), ("mean", numbers[::-1]))
        for seed, count in enumerate(counts)
        if (record := make_record(variant, "mnist", seed, np.arange(IMAGES) < count))
    }
    (panel,) = make_panels(cells, "full")

    text = difference_table([panel])

    assert text is not None
    assert "| mean | +0.000 (0-1-0) |" in text
    ours, theirs = panel.accuracies(["hgprompt", "mean"], ["mnist"])
    assert ours == theirs


def test_more_sources_are_held_against_the_fewest_of_the_same_seeds(
    make_record: MakeRecord,
) -> None:
    """Of 200 images: on `mnist` 20, 30 more with 8 and 11 sources; on `count` no cell with 8."""
    numbers = {"mnist": {3: 100, 8: 120, 11: 130}, "count": {3: 100, 11: 100}}
    cells = {
        record.cell: record
        for variant in ("hgprompt", "none")
        for task, by_number in numbers.items()
        for number, right in by_number.items()
        if (record := make_record(variant, task, 0, np.arange(IMAGES) < right, number))
    }
    # A seed that has the fewest sources only says nothing.
    lone = make_record("hgprompt", "mnist", 1, np.arange(IMAGES) < 1, 3)
    text = more_sources_table(make_panels(cells | {lone.cell: lone}, "full"))

    assert text is not None
    header, _, *rows = text.splitlines()
    assert header == "| method | M = 8 minus 3 | M = 11 minus 3 |"
    differences = np.array([0.15, 0.0])
    assert rows == [f"| hgprompt | +0.100 (1-0-0) | {compared(differences)} |"]


def test_one_number_of_sources_has_no_gain(results: ResultsFolder) -> None:
    assert more_sources_table(make_panels(results.cells(), "full")[:1]) is None


def test_gains_are_over_the_same_tasks_for_every_number_of_sources(
    results: ResultsFolder,
) -> None:
    found, num_tasks = gains(make_panels(results.cells(), "full"))
    assert num_tasks == 2
    assert set(found) == {"hgprompt", "single", "mean"}
    assert [found["hgprompt"][m].mean for m in (3, 5)] == pytest.approx([0.06, 0.06])


def test_the_main_panel_is_that_of_most_tasks(results: ResultsFolder) -> None:
    assert main_panel(make_panels(results.cells(), "full")).num_sources == 3


def test_hgprompt_is_held_against_the_best_simple_candidate(
    results: ResultsFolder, make_record: MakeRecord
) -> None:
    panel = make_panels(results.cells(), "full")[0]
    text = never_worse_table(panel)
    assert text is not None
    assert text.startswith("Of 3 tasks: 3 no difference.")
    # Make it fail on one task and win on another, by 20 images of 200.
    for seed in range(3):
        for task, accuracy in (("count", 0.60), ("digits", 0.99)):
            record = make_record("hgprompt", task, seed, _correct(accuracy, seed))
            panel.records["hgprompt"][task][seed] = record
    text = never_worse_table(panel)
    assert text is not None
    assert text.startswith("Of 3 tasks: 1 better, 1 no difference, 1 worse.")
    assert "| count | 0.600 | single 0.700 | -0.100 [" in text


def test_every_method_is_held_against_the_best_simple_candidate(
    results: ResultsFolder, make_record: MakeRecord
) -> None:
    panel = make_panels(results.cells(), "full")[0]
    # 20 images of 200 worse with two seeds on one task, and 20 better with the third.
    for seed, accuracy in enumerate((0.60, 0.60, 0.80)):
        record = make_record("hgprompt", "count", seed, _correct(accuracy, seed))
        panel.records["hgprompt"]["count"][seed] = record
    text = worse_table([panel])
    assert text is not None
    # The seeds of `count` contradict each other; those of `mean` agree on every task.
    assert "| hgprompt | 1 / 0 of 3 |" in text
    assert "| single | 0 / 0 of 3 |" in text
    assert "| mean | 3 / 3 of 3 |" in text
    one_seed = {
        variant: {task: {0: seeds[0]} for task, seeds in by_task.items()}
        for variant, by_task in panel.records.items()
    }
    text = worse_table([Panel(panel.shots, panel.num_sources, one_seed)])
    assert text is not None
    assert "| mean | 3 / n/a of 3 |" in text
    # As where a run is not finished.
    del panel.records["mean"]["count"], panel.records["single"]["digits"][0]
    del panel.records["single"]["digits"][1]
    text = worse_table([panel])
    assert text is not None
    assert "| mean | 2 / n/a of 2 |" in text


def test_the_report_says_what_was_done_and_what_is_missing(
    results: ResultsFolder, tmp_path: Path
) -> None:
    files = write_report([results], tmp_path / "report")
    assert [path.name for path in files] == [
        "report.md",
        "gain-full.svg",
        "win-rate-full-3.svg",
        "critical-difference-full-3.svg",
    ]
    text = files[0].read_text()
    for part in (
        "63 cells finished, 3 missing",
        "the command",
        "some processor, 2 cores, torch threads: 1, device cpu, some system; torch 1.2.3",
        "commit c0ffee+ (+: with changes)",
        "| hgprompt | full | 5 | 3 |",
        "| mnist | 2 | 3, 5 |",
        "| digits (natural) | **0.900 ± 0.010** |",
        "| hgprompt | 9 of 9 | 6 of 6 |",
    ):
        assert part in text
    for path in files[1:]:
        assert f"({path.name})" in text


def test_later_tasks_are_told_apart(results: ResultsFolder, tmp_path: Path) -> None:
    """Of the four tasks `count` had been looked at; of those with 5 sources only one is left."""
    text = write_report([results], tmp_path / "report")[0].read_text()
    section = text.split("### Paired differences on later tasks")[1].split("###")[0]
    assert "M = 3 (2 tasks)" in section
    assert "| mean | +0.100 [+0.100, +0.100] (2-0-0) |" in section


def test_equal_results_give_equal_files(results: ResultsFolder, tmp_path: Path) -> None:
    one, two = (write_report([results], tmp_path / name) for name in ("one", "two"))
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]


ROOT = Path(__file__).parents[3]
DRAW = """
import sys
from pathlib import Path
import numpy as np
from benchmarks.suite.plots import plot_critical_difference
names = ["hgprompt", "none", "single", "mean", "h_ensemble", "logme"]
accuracies = np.random.default_rng(0).random((6, 20)) + np.linspace(0, 0.6, 6)[:, None]
plot_critical_difference(names, accuracies, Path(sys.argv[1]), title="made up")
"""


def test_equal_results_give_equal_files_in_every_interpreter(tmp_path: Path) -> None:
    """The order of a set of names depends on PYTHONHASHSEED, which is random unless it is set."""
    paths = [tmp_path / f"{seed}.svg" for seed in (1, 2)]
    for path in paths:
        environment = os.environ | {"PYTHONHASHSEED": path.stem}
        program = [sys.executable, "-c", DRAW, str(path)]
        subprocess.run(program, cwd=ROOT, env=environment, check=True)
    one, two = (path.read_bytes() for path in paths)
    assert one == two


def test_a_single_method_has_a_report_without_comparisons(
    tmp_path: Path, make_record: MakeRecord
) -> None:
    results = ResultsFolder(tmp_path)
    setting = Setting(
        backbone="b",
        backbone_digest="sha256:0",
        precision="fp32",
        max_test_images=None,
        tuning_epochs=0,
        prompts={},
    )
    results.open(setting)
    with pytest.raises(SuiteError, match="no finished cell"):
        write_report([results], tmp_path)
    results.add(make_record("none", "mnist", 0, _correct(0.7, 0)))
    (report,) = write_report([results], tmp_path)
    assert "| none | 0.690 |" in report.read_text()
