import pytest

from benchmarks.serving.equality import largest_difference, our_probabilities
from benchmarks.serving.errors import UnequalOutputsError


def test_our_answer_is_put_in_class_order() -> None:
    rows = [{"label": "b", "index": 1, "probability": 0.7}, {"index": 0, "probability": 0.3}]
    assert our_probabilities({"predictions": [rows]}) == [0.3, 0.7]


def test_the_largest_difference_is_found() -> None:
    ours, theirs = [[0.5, 0.5], [0.1, 0.9]], [[0.5, 0.5], [0.15, 0.85]]
    assert largest_difference(ours, theirs, tolerance=0.06) == pytest.approx(0.05)
    with pytest.raises(UnequalOutputsError, match=r"differ by 0\.05"):
        largest_difference(ours, theirs, tolerance=0.04)


@pytest.mark.parametrize("theirs", [[[1.0]], [[0.5, float("nan")]], [[0.5, 0.5], [0.5, 0.5]]])
def test_other_shapes_and_nan_are_unequal(theirs: list[list[float]]) -> None:
    with pytest.raises(UnequalOutputsError):
        largest_difference([[0.5, 0.5]], theirs, tolerance=0.1)
