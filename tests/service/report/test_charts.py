import math
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from service.report.charts import curves, reliability, scatter
from service.report.charts.axis import Axis
from service.report.charts.curves import curve
from service.report.charts.matrices import Matrix, confusion_matrix, cosine_matrix
from service.report.charts.numbers import number
from service.report.charts.rows import (
    MAX_ROWS,
    ablation_chart,
    gap_chart,
    leaderboard_chart,
    timing_chart,
    weight_chart,
)
from service.report.data import Ablation, Embedding, Ranked, ReliabilityBin, ReportData

Result = dict[str, Any]


def test_numbers_have_a_true_minus_sign_and_none_is_a_dash() -> None:
    assert number(-0.12345) == "\N{MINUS SIGN}0.123"
    assert number(0.5, 1, signed=True) == "+0.5"
    assert number(None) == "\N{EN DASH}"


def test_ticks_are_round_and_on_the_axis() -> None:
    ticks = Axis(0.613, 0.897).ticks
    assert [tick.label for tick in ticks] == ["0.7", "0.8"]
    assert [tick.at for tick in ticks] == pytest.approx([30.63, 65.85], abs=0.01)
    assert [tick.label for tick in Axis(0, 1).ticks] == ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]
    assert [tick.label for tick in Axis(-20, 20).ticks] == [
        "\N{MINUS SIGN}20",
        "\N{MINUS SIGN}10",
        "0",
        "10",
        "20",
    ]


@given(
    st.lists(st.floats(-1e100, 1e100, allow_subnormal=False), min_size=1, max_size=5),
    st.sampled_from([0.0, 0.01]),
)
def test_any_axis_has_a_few_distinct_ticks_in_order(values: list[float], pad: float) -> None:
    axis = Axis.spanning(values, pad=pad)
    assert axis.low < axis.high
    places = [tick.at for tick in axis.ticks]
    assert 1 <= len(places) <= 6
    assert places == sorted(set(places))
    assert all(0 <= axis.at(value) <= 100 for value in (*values, -math.inf, math.inf))


def test_weights_are_largest_first_on_an_axis_that_holds_them() -> None:
    chart = weight_chart({"b": 0.2, "a": 0.2, "c": 0.6})
    assert chart is not None
    assert [(row.label, row.value, row.at) for row in chart.rows] == [
        ("c", "0.600", 60.0),
        ("a", "0.200", 20.0),
        ("b", "0.200", 20.0),
    ]
    small = weight_chart({"a": 0.05, "b": 0.02})
    assert small is not None
    assert [row.at for row in small.rows] == [50.0, 20.0]  # of an axis to 0.1


def test_of_many_weights_the_rest_is_said_in_words() -> None:
    chart = weight_chart({f"source-{i}": 1 / 50 for i in range(50)})
    assert chart is not None
    assert len(chart.rows) == MAX_ROWS
    assert chart.note == "26 more sources share 0.520."


def test_dots_lie_within_their_intervals_and_only_the_chosen_is_marked(result: Result) -> None:
    data = ReportData.model_validate(result)
    chart = leaderboard_chart(data.leaderboard or (), data.chosen_label)
    assert chart is not None
    assert [row.label for row in chart.rows] == [
        "single · digits",
        "hgprompt",
        "hgprompt · tuned",
        "none",
    ]
    assert [row.marked for row in chart.rows] == [True, False, False, False]
    for row in chart.rows:
        assert row.low is not None
        assert row.high is not None
        assert 0 < row.low < row.at < row.high < 100
    assert (chart.rows[0].value, chart.rows[0].detail) == ("0.830", "0.760 to 0.880")
    alone = leaderboard_chart([Ranked(method="none", accuracy=1.0)], "none")
    assert alone is not None
    assert (alone.rows[0].low, alone.rows[0].detail, alone.rows[0].marked) == (None, "", True)


def test_of_many_candidates_only_weak_single_sources_are_left_out() -> None:
    singles = [Ranked(method="single", source=f"s{i}", accuracy=i / 100) for i in range(60)]
    others = [Ranked(method="none", accuracy=0.01), Ranked(method="hgprompt", accuracy=0.02)]
    chart = leaderboard_chart([*singles, *others], "single · s3")
    assert chart is not None
    labels = [row.label for row in chart.rows]
    assert len(labels) == MAX_ROWS
    assert labels[0] == "single · s59"
    assert {"single · s3", "none", "hgprompt"} <= set(labels)
    assert chart.note == f"{62 - MAX_ROWS} more single sources are not drawn."


def test_an_ablation_is_marked_where_its_interval_excludes_zero(result: Result) -> None:
    chart = ablation_chart(ReportData.model_validate(result).ablations or ())
    assert chart is not None
    assert [row.marked for row in chart.rows] == [True, False]
    assert chart.rows[1].value == "+0.010"
    assert chart.reference is not None
    assert chart.rows[0].at < chart.reference < chart.rows[1].at


def test_ablations_that_all_gain_are_drawn_beside_no_difference() -> None:
    chart = ablation_chart([Ablation(name="x", difference=0.1, difference_ci95=(0.05, 0.15))])
    assert chart is not None
    (row,) = chart.rows
    assert row.marked
    assert chart.reference is not None
    assert row.low is not None
    assert 0 < chart.reference < row.low


@pytest.mark.parametrize(
    ("aligned", "unaligned", "drawn"),
    [
        (0.5, 0.75, [("tokens aligned", 50.0), ("tokens as stored", 75.0)]),
        (None, 3.0, [("tokens as stored", 100.0)]),
        (1.5, 3.0, [("tokens aligned", 50.0), ("tokens as stored", 100.0)]),
        (0.25, None, [("tokens aligned", 25.0)]),
        (None, None, None),
    ],
)
def test_of_the_gap_what_is_known_is_drawn(
    aligned: float | None, unaligned: float | None, drawn: list[tuple[str, float]] | None
) -> None:
    chart = gap_chart(aligned, unaligned)
    assert (chart and [(row.label, row.at) for row in chart.rows]) == drawn


def test_durations_keep_their_order() -> None:
    chart = timing_chart({"features": 1.0, "weights": 4.0})
    assert chart is not None
    assert [(row.label, row.value, row.at) for row in chart.rows] == [
        ("features", "1.00 s", 25.0),
        ("weights", "4.00 s", 100.0),
    ]


def test_a_curve_needs_two_points() -> None:
    assert curve("c", []) is None
    assert curve("c", [(1, 2.0)]) is None
    drawn = curve("c", [(1, 0.0), (2, 0.5), (3, 1.0)])
    assert drawn is not None
    assert drawn.line == f"0.0,{curves.HEIGHT} 165.0,95.0 {curves.WIDTH},0.0"
    assert [tick.label for tick in drawn.x_ticks] == ["1", "2", "3"]
    assert len(drawn.dots) == 3
    flat = curve("c", [(i, 2.0) for i in range(1, 100)])
    assert flat is not None
    assert len(set(re.findall(r",(\S+)", flat.line))) == 1
    assert flat.dots == ()


def cells(matrix: Matrix) -> dict[tuple[int, int], tuple[bool, float]]:
    """Row and column of each coloured cell, with its colour and strength."""
    return {
        (int(y), int(x)): (layer.warm, layer.strength)
        for layer in matrix.layers
        for x, y in re.findall(r"M(\d+) (\d+)h1v1h-1z", layer.path)
    }


def test_cosines_below_zero_are_warm() -> None:
    matrix = cosine_matrix([[1.0, -0.43, None], [-0.43, 1.0, 0.2], [None, 0.2, 1.0]], "abc")
    assert cells(matrix) == {
        **{(i, i): (False, 1.0) for i in range(3)},
        **dict.fromkeys([(0, 1), (1, 0)], (True, 0.5)),
        **dict.fromkeys([(1, 2), (2, 1)], (False, 0.2)),
    }
    assert matrix.warm_path == "M1 0h1v1h-1zM0 1h1v1h-1z"
    assert [text.text for text in matrix.texts if text.row == 0] == ["1.00", "\N{MINUS SIGN}0.43"]
    assert matrix.labels == ("a", "b", "c")
    assert matrix.description == "3 sources; 1 of 2 pairs are below 0."


@pytest.mark.parametrize(("size", "hatched"), [(3, False), (23, False), (24, True), (100, False)])
def test_cells_below_zero_are_hatched_where_no_text_says_it(size: int, hatched: bool) -> None:
    matrix = cosine_matrix([[-0.5] * size for _ in range(size)], ["source"] * size)
    assert matrix.hatched == hatched
    assert bool(matrix.texts) == (size < 24)


def test_confusions_are_shaded_by_their_share_of_the_row() -> None:
    matrix = confusion_matrix([[9, 1, 0], [0, 0, 0], [0, 4, 4]], ["a", "b", "c"])
    assert cells(matrix) == {
        (0, 0): (False, 0.9),
        (0, 1): (True, 0.1),
        (2, 1): (True, 0.5),
        (2, 2): (False, 0.5),
    }
    assert {(t.row, t.column): t.text for t in matrix.texts}[2, 1] == "4"
    assert matrix.description == "3 classes; 13 of 18 images are right."


@pytest.mark.parametrize(("size", "labelled", "texts"), [(20, 20, 20), (30, 30, 0), (60, 0, 0)])
def test_large_matrices_lose_their_texts_then_their_labels(
    size: int, labelled: int, texts: int
) -> None:
    identity = [[int(i == j) for j in range(size)] for i in range(size)]
    matrix = confusion_matrix(identity, [str(i) for i in range(size)])
    assert (len(matrix.labels), len(matrix.texts)) == (labelled, texts)
    assert matrix.side_px == pytest.approx(520, abs=1)
    assert len(cells(matrix)) == size


def test_a_reliable_model_lies_on_the_diagonal() -> None:
    bins = [
        ReliabilityBin(low=0.0, high=0.5, count=0),
        ReliabilityBin(low=0.5, high=0.75, count=20, confidence=0.6, accuracy=0.6),
        ReliabilityBin(low=0.75, high=1.0, count=40, confidence=0.9, accuracy=0.75),
    ]
    plot = reliability.reliability(bins)
    assert plot is not None
    on, below = plot.bins
    assert on.x / reliability.WIDTH == pytest.approx(0.6)
    assert 1 - on.y / reliability.HEIGHT == pytest.approx(0.6)
    assert 1 - below.y / reliability.HEIGHT == pytest.approx(0.75)
    for each in plot.bins:
        assert 0 <= each.top < each.y < each.bottom <= reliability.HEIGHT
    assert below.bottom - below.top < on.bottom - on.top  # more images, a shorter interval
    assert (on.column, below.column) == (24.0, 48.0)
    columns = [
        (each.left / reliability.WIDTH, each.width / reliability.WIDTH) for each in plot.bins
    ]
    assert columns == [(0.5, 0.25), (0.75, 0.25)]
    assert reliability.reliability(bins[:1]) is None
    assert reliability.reliability(None) is None


def points(count: int) -> tuple[tuple[float, float], ...]:
    return tuple((math.cos(i), math.sin(i)) for i in range(count))


def test_each_class_has_a_colour_and_a_shape_of_its_own() -> None:
    labels = tuple(range(scatter.MAX_MARKED))
    embedding = Embedding(labels=labels, plain=points(len(labels)))
    drawn = scatter.scatter(embedding, [f"class {i}" for i in labels])
    assert drawn is not None
    assert len({(marker.colour, marker.shape) for marker in drawn.legend}) == len(labels)
    first_round = drawn.legend[: scatter.MAX_COLOURS]
    assert len({marker.colour for marker in first_round}) == scatter.MAX_COLOURS
    assert len({marker.shape for marker in first_round}) == scatter.MAX_COLOURS
    assert [panel.title for panel in drawn.panels] == ["Plain features"]


def test_of_many_classes_the_frequent_ones_are_marked() -> None:
    labels = (*range(40), *([7] * 3), *([31] * 2))
    embedding = Embedding(labels=labels, plain=points(45), composite=points(45))
    drawn = scatter.scatter(embedding, None)
    assert drawn is not None
    assert len(drawn.legend) == scatter.MARKED_OF_MANY
    assert {"class 7", "class 31"} <= {marker.label for marker in drawn.legend}
    assert drawn.num_others == 40 - scatter.MARKED_OF_MANY
    for panel in drawn.panels:
        assert sum(group.path.count("M") for group in panel.groups) == 45
        colours = [group.marker.colour for group in panel.groups]
        assert None not in colours[drawn.num_others :]  # the marked ones are drawn on top


def test_points_keep_their_proportions_inside_the_frame() -> None:
    embedding = Embedding(labels=(0, 0, 0), plain=((0.0, 0.0), (2.0, 0.0), (2.0, 1.0)))
    drawn = scatter.scatter(embedding, ["only"])
    assert drawn is not None
    ((group,),) = [panel.groups for panel in drawn.panels]
    (x0, y0), (x1, y1), (x2, y2) = (
        (float(x), float(y)) for x, y in re.findall(r"M(\S+) ([\d.]+)", group.path)
    )
    assert (x0, x1 - x0) == (scatter.MARGIN, scatter.SIDE - 2 * scatter.MARGIN)
    assert y0 == y1
    assert (x2, y1 - y2) == (x1, pytest.approx((x1 - x0) / 2))
    assert y1 + y2 == pytest.approx(scatter.SIDE)  # centred


@pytest.mark.parametrize(
    ("composite_of", "title"),
    [
        ("hgprompt", "Features of the learned ensemble, under its composite prompt"),
        (None, "Features of what was served, under its prompt"),
    ],
)
def test_a_plane_is_titled_by_whose_features_it_shows(composite_of: str | None, title: str) -> None:
    embedding = Embedding(
        labels=(0, 1), plain=points(2), composite=points(2), composite_of=composite_of
    )
    drawn = scatter.scatter(embedding, None)
    assert drawn is not None
    assert [panel.title for panel in drawn.panels] == ["Plain features", title]


def test_planes_without_a_point_for_every_label_are_left_out() -> None:
    assert scatter.scatter(None, None) is None
    assert scatter.scatter(Embedding(labels=(), plain=()), None) is None
    assert scatter.scatter(Embedding(labels=(0, 1), plain=points(3)), None) is None


@pytest.mark.parametrize("count", [1, 2, 7, 90, 5000])
@pytest.mark.parametrize("confidence", [0.0, 1e-300, 0.07, 0.5, 0.9, 1 - 1e-16, 1.0])
def test_the_calibration_error_of_chance_is_the_mean_deviation_of_a_binomial(
    count: int, confidence: float
) -> None:
    bins = [ReliabilityBin(low=0, high=1, count=count, confidence=confidence, accuracy=0.5)]
    plot = reliability.reliability(bins)
    assert plot is not None
    dense = binom(count, confidence).expect(lambda x: abs(x / count - confidence))
    assert plot.chance_ece == pytest.approx(dense, abs=1e-9)


def test_the_calibration_error_of_chance_weighs_bins_by_their_images() -> None:
    shares = {0.3: 1, 0.8: 9}
    bins = [
        ReliabilityBin(low=0, high=1, count=n, confidence=p, accuracy=p) for p, n in shares.items()
    ]
    plot = reliability.reliability(bins)
    assert plot is not None
    errors = [binom(n, p).expect(lambda x, n=n, p=p: abs(x - n * p)) for p, n in shares.items()]
    assert plot.chance_ece == pytest.approx(sum(errors) / 10)
