from typing import Any

import pytest

from service.report.data import Ablation, ReportData
from service.report.sections import sections
from service.report.tables import (
    MAX_LISTED,
    largest_weights,
    score_table,
    strongest_conflicts,
    worst_classes,
    worst_confusions,
)

Result = dict[str, Any]


def names(result: Result) -> list[str]:
    return [section.name for section in sections(ReportData.model_validate(result))]


def test_sources_are_ordered_by_weight_with_the_best_of_each_column_marked(result: Result) -> None:
    table = score_table(ReportData.model_validate({**result, "weights": {"fashion": 0.9}}))
    assert table is not None
    assert table.labels == ("fashion@2", "digits@1", "texture@1")
    assert [column.heading for column in table.columns] == [
        "weight \N{GREEK SMALL LETTER ALPHA}",
        "H-score",
        "LogME",
    ]
    assert [column.best for column in table.columns] == [None, 1, 0]
    assert table.columns[2].texts == ("0.500", "\N{MINUS SIGN}0.250", "0.125")


def test_sources_without_any_score_make_no_table() -> None:
    assert score_table(ReportData.model_validate({"sources": [{"name": "a"}]})) is None


def test_the_strongest_conflicts_are_each_named_once() -> None:
    rows = [[1.0, -0.2, 0.0], [-0.2, 1.0, -0.9], [0.0, -0.9, 1.0]]
    found = strongest_conflicts(rows, ["a", "b", "c"])
    assert [(pair.first, pair.second, pair.cosine) for pair in found] == [
        ("b", "c", -0.9),
        ("a", "b", -0.2),
    ]
    many = [[-0.5] * 9 for _ in range(9)]
    assert len(strongest_conflicts(many, "abcdefghi")) == MAX_LISTED


def test_confusions_are_ordered_by_images_then_by_share() -> None:
    found = worst_confusions([[8, 2, 0], [2, 2, 0], [3, 0, 0]], ["a", "b", "c"])
    assert [(each.actual, each.predicted, each.count, each.share) for each in found] == [
        ("c", "a", 3, 1.0),
        ("b", "a", 2, 0.5),
        ("a", "b", 2, 0.2),
    ]


def test_classes_without_images_or_without_mistakes_are_not_the_worst() -> None:
    found = worst_classes([[3, 1, 0], [0, 0, 0], [0, 2, 2]], ["a", "b", "c"])
    assert [(each.name, each.right, each.count) for each in found] == [("c", 2, 4), ("a", 3, 4)]
    assert worst_classes([[5]], ["a"]) == ()


def test_the_largest_weights_come_first() -> None:
    ablation = Ablation(name="x", weights={"a": 0.1, "b": 0.4, "c": 0.2, "d": 0.3})
    assert largest_weights(ablation) == "b 0.40, d 0.30, c 0.20"
    assert largest_weights(Ablation(name="x")) == ""


def test_an_ablation_is_told_with_its_accuracy_and_its_weights(result: Result) -> None:
    (ablations,) = [
        each.content
        for each in sections(ReportData.model_validate(result))
        if each.name == "ablations"
    ]
    assert ablations.rows == (
        ("without alignment", "0.750", "digits 0.50, fashion 0.25, texture 0.25"),
        ("feature sum", "\N{EN DASH}", ""),
    )


def test_each_curve_has_the_title_of_its_own(result: Result) -> None:
    (learning,) = [
        each.content
        for each in sections(ReportData.model_validate(result))
        if each.name == "objective"
    ]
    assert {curve.title: curve.description.split(";")[0] for curve in learning.curves} == {
        "Weights on the feature sum: best objective": "From 0.1 to 0.9 in 3 evaluations",
        "Composite prompt itself: objective": "From 1 to 1.25 in 2 evaluations",
    }


def test_matrices_that_are_not_square_or_not_named_are_left_out(result: Result) -> None:
    assert {"conflict", "confusion"} <= set(names(result))
    assert "conflict" not in names({**result, "gradient_cosine": [[1.0], [1.0, 2.0]]})
    assert "confusion" not in names({**result, "confusion_matrix": [[1, 2]]})
    assert "confusion" not in names({**result, "classes": ["a"]})


@pytest.mark.parametrize(
    ("gap", "labels"),
    [
        ({"aligned": 0.25}, ["tokens aligned"]),
        ({"unaligned": 3.0}, ["tokens as stored"]),
        ({}, None),
        (None, None),
    ],
)
def test_a_gap_has_a_row_for_each_way_that_was_measured(
    gap: object, labels: list[str] | None
) -> None:
    data = ReportData.model_validate({"composition_gap": gap})
    chart = next((each.content for each in sections(data) if each.name == "gap"), None)
    assert (chart and [row.label for row in chart.rows]) == labels


def test_sources_of_a_matrix_are_numbered_if_their_names_do_not_fit(result: Result) -> None:
    data = ReportData.model_validate({**result, "gradient_cosine": [[1.0, -0.5], [-0.5, 1.0]]})
    (conflict,) = [each.content for each in sections(data) if each.name == "conflict"]
    assert conflict.matrix.labels == ("source 1", "source 2")
