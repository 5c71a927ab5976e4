"""What the learned weights are worth, on made-up fits."""

from collections.abc import Callable

import numpy as np
import pytest

from benchmarks.suite.learned_weights import learned_weights_table
from benchmarks.suite.panel import Panel
from benchmarks.suite.records import CellRecord, Place
from tests.benchmarks.suite.conftest import MakeRecord

IMAGES = 300
MakeFit = Callable[..., CellRecord]


def _place(method: str, right: int, log_loss: float, *, tuned: bool = False) -> Place:
    """A candidate that is right on so many of the test images."""
    return Place(
        method=method,
        source="a" if method in ("single", "logme") else None,
        tuned=tuned,
        accuracy=0.5,
        log_loss=log_loss,
        cross_fit_accuracy=0.5,
        cross_fit_log_loss=log_loss,
        test_accuracy=round(right / IMAGES, 6),
    )


@pytest.fixture
def make_fit(make_record: MakeRecord) -> MakeFit:
    """Make a cell whose first candidate is the one served."""

    def make(variant: str, *places: Place, seed: int = 0) -> CellRecord:
        record = make_record(variant, "mnist", seed, np.ones(IMAGES, bool))
        return record.model_copy(update={"leaderboard": places, "chosen": places[0]})

    return make


def _ours(make_fit: MakeFit, learned: Place, seed: int = 0) -> CellRecord:
    """A fit that serves its single source."""
    single, tuned = _place("single", 210, 1.0), _place("hgprompt", 300, 0.1, tuned=True)
    others = (_place("none", 150, 1.3), _place("mean", 162, 1.4))
    return make_fit("hgprompt", single, tuned, learned, *others, seed=seed)


def _panel(*fits: CellRecord) -> Panel:
    records: dict[str, dict[str, dict[int, CellRecord]]] = {}
    for fit in fits:
        by_task = records.setdefault(fit.cell.variant, {})
        by_task.setdefault(fit.cell.target, {})[fit.cell.seed] = fit
    return Panel("full", 3, records)


def _lines(panel: Panel) -> list[str]:
    text = learned_weights_table([panel])
    assert text is not None
    return text.splitlines()


def test_the_learned_ensemble_is_compared_whatever_was_served(make_fit: MakeFit) -> None:
    tuned = _place("h_ensemble", 290, 0.1, tuned=True)
    panel = _panel(
        _ours(make_fit, _place("hgprompt", 180, 1.2)),
        make_fit("h_ensemble", tuned, _place("h_ensemble", 195, 1.1)),
        make_fit("logme", _place("logme", 210, 1.0)),
    )
    assert _lines(panel)[0] == "| the learned ensemble minus | M = 3 |"
    assert _lines(panel)[2:] == [
        "| `h_ensemble` | -0.050 (0-0-1) |",
        "| `mean` | +0.060 (1-0-0) |",
        "| `none` | +0.100 (1-0-0) |",
        # Both rules take the single source.
        "| rule minus rule | +0.000 (0-1-0) |",
    ]


@pytest.mark.parametrize(
    ("learned_loss", "other_loss", "expected"),
    [
        (0.9, 0.8, "-0.050 (0-0-1)"),  # each rule takes its own mixture: 180 and 195 of 300
        (0.9, 1.1, "-0.100 (0-0-1)"),  # the learned one's, 180, and the single source, 210
        (1.1, 0.8, "+0.050 (1-0-0)"),
        (1.0, 1.0, "-0.050 (0-0-1)"),  # each mixture as sure as the single source: taken
    ],
)
def test_the_same_rule_is_applied_to_both_weights(
    make_fit: MakeFit, learned_loss: float, other_loss: float, expected: str
) -> None:
    panel = _panel(
        _ours(make_fit, _place("hgprompt", 180, learned_loss)),
        make_fit("h_ensemble", _place("h_ensemble", 195, other_loss)),
        make_fit("logme", _place("logme", 210, 1.0)),
    )
    assert _lines(panel)[-1] == f"| rule minus rule | {expected} |"


def test_rows_without_their_fits_are_left_out(make_fit: MakeFit) -> None:
    ours = _ours(make_fit, _place("hgprompt", 180, 1.2))
    assert [line.split(" | ")[0] for line in _lines(_panel(ours))[2:]] == ["| `mean`", "| `none`"]
    assert learned_weights_table([_panel(ours).without({"mnist"})]) is None


def test_the_rule_is_not_applied_to_fits_that_left_candidates_out(make_fit: MakeFit) -> None:
    """As older ones did."""
    single, learned = _place("single", 210, 1.0), _place("hgprompt", 180, 0.9)
    panel = _panel(
        make_fit("hgprompt", single, learned, _place("none", 150, 1.3)),
        make_fit("h_ensemble", _place("h_ensemble", 195, 0.8)),
        make_fit("logme", _place("logme", 210, 1.0)),
    )
    assert [line.split(" | ")[0] for line in _lines(panel)[2:]] == ["| `h_ensemble`", "| `none`"]


@pytest.mark.parametrize(("ours", "theirs"), [((1, 1, 1), (0, 1, 2)), ((0, 0, 3), (1, 1, 1))])
def test_as_many_right_in_other_seeds_are_a_tie(
    make_fit: MakeFit, ours: tuple[int, ...], theirs: tuple[int, ...]
) -> None:
    """With the six decimals of a leaderboard, or the last digits of a mean, a difference."""
    fits = [
        fit
        for seed in range(3)
        for fit in (
            _ours(make_fit, _place("hgprompt", ours[seed], 1.2), seed=seed),
            make_fit("h_ensemble", _place("h_ensemble", theirs[seed], 1.1), seed=seed),
        )
    ]
    assert _lines(_panel(*fits))[2] == "| `h_ensemble` | +0.000 (0-1-0) |"
