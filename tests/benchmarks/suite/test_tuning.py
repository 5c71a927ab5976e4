"""What tuning is worth, on made-up leaderboards."""

import numpy as np

from benchmarks.suite.panel import Panel
from benchmarks.suite.records import CellRecord, Place
from benchmarks.suite.tuning import tuning_table
from tests.benchmarks.suite.conftest import MakeRecord

IMAGES = 300


def _place(right: int, *, source: str | None = "a", tuned: bool = False) -> Place:
    """A single source that is right on so many of the test images."""
    return Place(
        method="single",
        source=source,
        tuned=tuned,
        accuracy=0.5,
        log_loss=1.0,
        cross_fit_accuracy=0.5,
        cross_fit_log_loss=1.0,
        test_accuracy=round(right / IMAGES, 6),
    )


def _panel(make_record: MakeRecord, fits: dict[str, list[tuple[Place, ...]]]) -> Panel:
    """Fits of `hgprompt`, task by task and seed by seed; the first candidate is served."""
    records: dict[str, dict[int, CellRecord]] = {}
    for task, leaderboards in fits.items():
        for seed, places in enumerate(leaderboards):
            record = make_record("hgprompt", task, seed, np.ones(IMAGES, bool))
            changes = {"leaderboard": places, "chosen": places[0]}
            records.setdefault(task, {})[seed] = record.model_copy(update=changes)
    return Panel("full", 3, {"hgprompt": records})


def test_a_tuned_prompt_is_held_against_its_own_start(make_record: MakeRecord) -> None:
    served = (_place(180, tuned=True), _place(299, source="b"), _place(150))
    kept = (_place(150), _place(210, tuned=True))
    never = (_place(150), _place(160, source="b"))
    panel = _panel(make_record, {"mnist": [served, never], "count": [kept], "digits": [never]})

    text = tuning_table([panel])

    assert text is not None
    header, _, row = text.splitlines()
    assert header == "| method | tuned in | minus its start | served in | served minus its start |"
    name, number, gain, times, worth = (part.strip() for part in row.strip("|").split(" | "))
    assert (name, number, times) == ("hgprompt, M = 3", "2 of 4", "1")
    assert gain.startswith("+0.150 [")
    assert gain.endswith("(2-0-0)")
    # 30 images of 300 in one of two seeds on one of three tasks.
    assert worth.startswith("+0.017 [")
    assert worth.endswith("(1-2-0)")


def test_a_method_without_sources_has_one_row(make_record: MakeRecord) -> None:
    record = make_record("vpt", "mnist", 0, np.ones(IMAGES, bool))
    places = (_place(150, tuned=True), _place(120))
    record = record.model_copy(update={"leaderboard": places, "chosen": places[0]})
    panels = [Panel("full", number, {"vpt": {"mnist": {0: record}}}) for number in (3, 5)]

    text = tuning_table(panels)

    assert text is not None
    assert text.splitlines()[2:] == ["| vpt | 1 of 1 | +0.100 (1-0-0) | 1 | +0.100 (1-0-0) |"]


def test_without_tuning_there_is_no_table(make_record: MakeRecord) -> None:
    assert tuning_table([_panel(make_record, {"mnist": [(_place(150),)]})]) is None
