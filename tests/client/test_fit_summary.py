import io
from typing import get_args

import pytest
from rich.console import Console

from client.fit_summary import (
    LEARNING_METHODS,
    METHOD_LABELS,
    chosen_label,
    condensed,
    method_label,
    print_findings,
    print_leaderboard,
    print_verdict,
    print_weights,
)
from client.replies import FitResult, LeaderboardRow
from ensemble import options
from ensemble.options import Method

RESULT = FitResult.model_validate(
    {
        "weights": {"fashion": 0.7, "a" * 64: 0.3, "unused": 0.0},
        "leaderboard": [
            {"method": "none", "accuracy": 0.6, "ci95": [0.5, 0.7]},
            {"method": "single", "source": "count", "accuracy": 0.5, "ci95": [0.4, 0.6]},
            {"method": "single", "source": "fashion", "accuracy": 0.62, "ci95": [0.52, 0.72]},
            {"method": "mean", "accuracy": 0.55, "ci95": [0.45, 0.65]},
            {"method": "hgprompt", "accuracy": 0.81, "ci95": [0.71, 0.91]},
        ],
        "chosen": "hgprompt",
        "advice": "The ensemble is better than each of its sources.",
    }
)


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=80, markup=False, highlight=False)


def lines(console: Console) -> list[str]:
    assert isinstance(console.file, io.StringIO)
    found = [line.rstrip() for line in console.file.getvalue().splitlines()]
    assert all(len(line) <= 80 for line in found)
    return found


def test_the_heaviest_source_comes_first_with_the_longest_bar(console: Console) -> None:
    print_weights(console, RESULT.weights)
    first, second, third = lines(console)
    assert first.split() == ["fashion", "0.700", "█" * 40]
    assert second.split()[1:] == ["0.300", "█" * 17 + "▏"]
    assert third.split() == ["unused", "0.000"]


def test_without_weights_nothing_is_divided(console: Console) -> None:
    print_weights(console, {"a": 0.0})
    assert lines(console) == ["  a  0.000"]


def test_the_leaderboard_is_sorted_and_shows_the_best_single_source(console: Console) -> None:
    print_leaderboard(console, RESULT)
    _, *rows = lines(console)
    assert [row.strip().split("  ")[0] for row in rows] == [
        "HGPrompt ensemble",
        "best single (fashion)",
        "no prompt",
        "mean of all sources",
    ]
    assert "81.0%  71.0% - 91.0%" in rows[0]


def test_the_candidate_that_is_served_is_among_them_with_its_accuracy(console: Console) -> None:
    chosen = {"method": "single", "source": "count", "tuned": False}
    print_findings(console, RESULT.model_copy(update={"chosen": chosen}), "hgprompt")
    text = lines(console)
    (served,) = (line for line in text if "single source (count) *" in line)
    assert "50.0%  40.0% - 60.0%" in served
    assert any("best single (fashion) " in line for line in text)
    assert "Chosen: single source count (*), 50.0% held out" in text


@pytest.mark.parametrize("method", [*get_args(Method), None])
def test_weights_are_called_learned_where_they_are(console: Console, method: str | None) -> None:
    print_findings(console, RESULT, method)
    learned = method in LEARNING_METHODS
    assert lines(console)[0] == ("Learned weights (alpha)" if learned else "Weights")
    assert options.LEARNING_METHODS == LEARNING_METHODS


def test_condensing_keeps_everything_that_is_no_single_source() -> None:
    row = LeaderboardRow(method="new", accuracy=0.1, ci95=(0.0, 0.2))
    assert condensed([row, row]) == [row, row]


def test_the_verdict_is_wrapped_not_cut(console: Console) -> None:
    print_verdict(console, RESULT.model_copy(update={"advice": "word " * 40}))
    text = lines(console)
    assert text[0] == "Chosen: HGPrompt ensemble"
    assert " ".join(text).count("word") == 40


@pytest.mark.parametrize(
    ("chosen", "label"),
    [
        ("hgprompt", "HGPrompt ensemble"),
        ("something new", "something new"),
        ({"method": "single", "source": "fashion"}, "single source fashion"),
        ({"method": "mean"}, "mean of all sources"),
        ({"method": "hgprompt", "tuned": True}, "HGPrompt ensemble, tuned"),
        ({"method": "panda", "source": "fashion", "tuned": True}, "PANDA from fashion, tuned"),
        ({"method": "logme", "source": "fashion"}, "best by LogME (fashion)"),
        ({"method": "new", "source": "{fashion}"}, "new ({fashion})"),
    ],
)
def test_the_chosen_one_is_named_in_words(chosen: str | dict[str, object], label: str) -> None:
    assert chosen_label(chosen) == label


def test_every_method_has_words_of_its_own() -> None:
    assert set(METHOD_LABELS) == set(get_args(Method))
    assert len(set(METHOD_LABELS.values())) == len(METHOD_LABELS)
    assert all(len(label) <= 24 for label in METHOD_LABELS.values())


@pytest.mark.parametrize(
    ("row", "label"),
    [
        ({"method": "vpt", "tuned": True}, "random prompt (VPT), tuned"),
        ({"method": "single", "source": "count"}, "best single (count)"),
        ({"method": "single"}, "single source"),
        ({"method": "panda", "source": "count", "tuned": True}, "PANDA from count, tuned"),
        ({"method": "logme", "source": "count"}, "best by LogME (count)"),
        ({"method": "spot"}, "similar sources (SPoT)"),
        ({"method": "spot", "source": "count"}, "nearest by SPoT (count)"),
        ({"method": "new", "source": "a{}b"}, "new (a{}b)"),
    ],
)
def test_a_row_names_its_source(row: dict[str, object], label: str) -> None:
    assert method_label(LeaderboardRow.model_validate({"accuracy": 0.5, **row})) == label


@pytest.mark.parametrize("name", ["count", "sprite-orientation", "n" * 64])
def test_every_method_fits_in_eighty_columns(console: Console, name: str) -> None:
    rows = [
        {"method": method, "source": name, "tuned": tuned, "accuracy": 0.9, "ci95": [0.8, 1.0]}
        for method in get_args(Method)
        for tuned in (False, True)
    ]

    print_leaderboard(console, FitResult.model_validate({"weights": {}, "leaderboard": rows}))

    text = lines(console)
    assert sum("90.0%  80.0% - 100.0%  " + "█" * 18 in line for line in text) == 2 * 9 - 1
    assert any("…" in line for line in text) == (len(name) > 32)
