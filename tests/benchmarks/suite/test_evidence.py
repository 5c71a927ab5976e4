"""What choosing among candidates was worth, on made-up fits."""

import numpy as np
import pytest

from benchmarks.suite.evidence import candidates_by_kind, choice_table, evidence_table
from benchmarks.suite.panel import Panel
from benchmarks.suite.records import CellRecord, Place
from benchmarks.suite.sections import optimism_table
from tests.benchmarks.suite.conftest import MakeRecord


def _place(
    method: str, test: float, held_out: float, log_loss: float, source: str | None = None
) -> Place:
    return Place(
        method=method,
        source=source,
        tuned=False,
        accuracy=held_out,
        log_loss=log_loss,
        cross_fit_accuracy=1 - held_out,
        cross_fit_log_loss=log_loss,
        test_accuracy=test,
    )


# Best first by held-out accuracy; the log-loss ranks as the test images do.
PLACES = (
    _place("single", 0.50, 0.9, 1.2, "a"),
    _place("hgprompt", 0.60, 0.8, 1.1),
    _place("none", 0.40, 0.7, 1.3),
    _place("single", 0.70, 0.6, 1.0, "b"),
    _place("mean", 0.55, 0.5, 1.15),
    _place("hgprompt", 0.99, 0.4, 0.1).model_copy(update={"tuned": True}),
)


FEWER = "lowest cross-fitted log-loss of learned, none, mean and LogME's source"


@pytest.fixture
def panel(make_record: MakeRecord) -> Panel:
    ours = make_record("hgprompt", "mnist", 0, np.ones(10, bool))
    ours = ours.model_copy(update={"leaderboard": PLACES, "chosen": PLACES[1]})
    evident = make_record("logme", "mnist", 0, np.ones(10, bool))
    evident = evident.model_copy(update={"chosen": _place("logme", 0.7, 0.6, 1.0, "b")})
    records: dict[str, dict[str, dict[int, CellRecord]]] = {
        "hgprompt": {"mnist": {0: ours}},
        "logme": {"mnist": {0: evident}},
    }
    return Panel("full", 2, records)


def test_each_rule_takes_its_candidate_and_none_a_tuned_one(panel: Panel) -> None:
    record = panel.records["hgprompt"]["mnist"][0]
    kinds = candidates_by_kind(record, "b")
    assert {name: place.test_accuracy for name, place in kinds.items()} == {
        "no prompt": 0.40,
        "uniform mean": 0.55,
        "learned ensemble": 0.60,
        "source of the highest LogME": 0.70,
        "best single held out": 0.50,
        "single source of the lowest cross-fitted log-loss": 0.70,
        "best of all held out": 0.50,
        FEWER: 0.70,
        "lowest cross-fitted log-loss of all": 0.70,
        "served": 0.60,
        "best of all on the test images": 0.70,
    }
    # With another source of the highest LogME "b" is not among the fewer.
    assert candidates_by_kind(record, "a")[FEWER].test_accuracy == 0.60
    text = choice_table([panel])
    assert text is not None
    assert "| best single held out | 0.500 | +0.100 (1-0-0) |" in text
    assert "| served | 0.600 |  |" in text


@pytest.mark.parametrize("method", ["hgprompt", "none", "mean"])
def test_the_rule_takes_whichever_of_the_fewer_is_surest(panel: Panel, method: str) -> None:
    record = panel.records["hgprompt"]["mnist"][0]
    places = tuple(
        p.model_copy(update={"cross_fit_log_loss": 0.9}) if p.method == method else p
        for p in PLACES
    )
    kinds = candidates_by_kind(record.model_copy(update={"leaderboard": places}), "b")
    assert (kinds[FEWER].method, kinds[FEWER].tuned) == (method, False)


def _panel_of(
    make_record: MakeRecord,
    *fits: tuple[Place, ...],
    evident: tuple[str | None, ...] = (),
    num_images: int = 10,
) -> Panel:
    """One task: of each seed the candidates, of which the first is served, and LogME's source."""
    cell = make_record("hgprompt", "mnist", 0, np.ones(num_images, bool))
    ours = {
        seed: cell.model_copy(update={"leaderboard": places, "chosen": places[0]})
        for seed, places in enumerate(fits)
    }
    logme = {
        seed: cell.model_copy(update={"chosen": _place("logme", 0, 0, 0, source)})
        for seed, source in enumerate(evident)
        if source is not None
    }
    return Panel("full", 2, {"hgprompt": {"mnist": ours}, "logme": {"mnist": logme}})


def test_the_choice_is_averaged_over_the_seeds_that_have_every_candidate(
    make_record: MakeRecord,
) -> None:
    nothing_right = tuple(p.model_copy(update={"test_accuracy": 0.0}) for p in PLACES)
    without_mean = tuple(p for p in nothing_right if p.method != "mean")
    only_tuned = tuple(
        p.model_copy(update={"tuned": p.method == "mean"}) for p in nothing_right if not p.tuned
    )
    panel = _panel_of(
        make_record,
        *(PLACES, PLACES, nothing_right, without_mean, only_tuned),
        evident=("a", "b", None, "a", "a"),
    )

    text = choice_table([panel])

    assert text is not None
    # The single source "a" is served, 0.5; LogME's are "a" and "b".
    assert "| source of the highest LogME | 0.600 | -0.100 (0-0-1) |" in text
    assert "| learned ensemble | 0.600 | -0.100 (0-0-1) |" in text


def test_as_many_right_in_other_seeds_are_a_tie_among_candidates(make_record: MakeRecord) -> None:
    """In another order, or as 31, 61 and 88 of 300, which the leaderboard has with six decimals."""
    right = {"none": (90, 60, 30), "mean": (31, 61, 88)}
    fits = [
        tuple(
            p.model_copy(
                update={
                    "test_accuracy": round(right.get(p.method, (30, 60, 90))[seed] / 300, 6),
                }
            )
            for p in PLACES
        )
        for seed in range(3)
    ]
    panel = _panel_of(make_record, *fits, evident=("a", "a", "a"), num_images=300)

    text = choice_table([panel])

    assert text is not None
    assert "| no prompt | 0.200 | +0.000 (0-1-0) |" in text
    assert "| uniform mean | 0.200 | +0.000 (0-1-0) |" in text


def test_evidence_is_averaged_over_the_seeds_whose_candidates_differ(
    make_record: MakeRecord,
) -> None:
    against = tuple(
        p.model_copy(update={"cross_fit_log_loss": -p.cross_fit_log_loss}) for p in PLACES
    )
    alike = tuple(p.model_copy(update={"test_accuracy": 0.5}) for p in PLACES)

    text = evidence_table([_panel_of(make_record, PLACES, against, PLACES, alike)])

    assert text is not None
    assert "| cross-fitted log-loss | +0.333 |" in text.splitlines()
    assert evidence_table([_panel_of(make_record, alike)]) is None


def test_evidence_that_ranks_as_the_test_images_do_scores_one(panel: Panel) -> None:
    text = evidence_table([panel])
    assert text is not None
    lines = text.splitlines()
    assert "| cross-fitted log-loss | +1.000 |" in lines
    # Ranks 5 4 3 2 1 held out and 2 4 1 5 3 on the test images: 1 - 6 * 26 / (5 * 24).
    assert "| held-out accuracy | -0.300 |" in lines
    assert "| cross-fitted accuracy | +0.300 |" in lines


def test_a_panel_without_our_method_has_no_tables(panel: Panel) -> None:
    empty = panel.without({"mnist"})
    assert empty.records == {}
    assert choice_table([empty]) is None
    assert evidence_table([empty]) is None


def test_optimism_by_choosing_is_what_the_average_source_does_not_have(
    make_record: MakeRecord,
) -> None:
    """What is served has 0.2 more held out, the two sources 0.4 and -0.1: nothing chose those."""
    served = make_record("hgprompt", "mnist", 0, np.arange(10) < 6)
    served = served.model_copy(update={"leaderboard": PLACES, "chosen": PLACES[1]})
    plain = make_record("none", "mnist", 0, np.arange(10) < 6)
    panel = Panel("full", 2, {"hgprompt": {"mnist": {0: served}}, "none": {"mnist": {0: plain}}})

    rows = [line.split("|")[1:-1] for line in optimism_table(panel).splitlines()]

    assert [cell.strip() for cell in rows[0]][:3] == [
        "method",
        "held-out minus test accuracy",
        "by choosing",
    ]
    assert [cell.strip() for cell in rows[2]] == ["hgprompt", "+0.200", "+0.050", "0.050", "1"]
    assert [cell.strip() for cell in rows[3]] == ["none", "+0.000", "n/a", "0.050", "1"]


def test_optimism_is_averaged_over_the_seeds_of_a_task_first(make_record: MakeRecord) -> None:
    """Three seeds of one task weigh as much as one of another."""
    right = np.arange(10) < 6

    def with_excess(task: str, seed: int, excess: float) -> CellRecord:
        record = make_record("mean", task, seed, right)
        chosen = record.chosen.model_copy(update={"accuracy": 0.6 + excess})
        return record.model_copy(update={"chosen": chosen})

    seeds = {seed: with_excess("count", seed, 0.3) for seed in range(3)}
    panel = Panel("full", 2, {"mean": {"count": seeds, "mnist": {0: with_excess("mnist", 0, 0.1)}}})

    row = optimism_table(panel).splitlines()[2]

    assert row.split("|")[2].strip().startswith("+0.200 [")
