import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from torch import Tensor

from ensemble.leaderboard import paired_difference, standing, validate
from ensemble.wilson import wilson_interval


def logits_for(predicted: list[int], num_classes: int = 3, margin: float = 2.0) -> Tensor:
    return margin * torch.nn.functional.one_hot(torch.tensor(predicted), num_classes).double()


@settings(deadline=None, max_examples=60, derandomize=True)
@given(st.integers(1, 2000), st.data())
def test_the_interval_is_that_of_scipy(trials: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, trials))

    low, high = wilson_interval(successes, trials)

    expected = binomtest(successes, trials).proportion_ci(method="wilson")
    assert low == pytest.approx(expected.low, abs=1e-9)
    assert high == pytest.approx(expected.high, abs=1e-9)
    assert 0 <= low <= successes / trials + 1e-12
    assert successes / trials - 1e-12 <= high <= 1


def test_a_standing_counts_what_is_right() -> None:
    labels = torch.tensor([0, 1, 2, 0])
    logits = logits_for([0, 1, 0, 0])

    place = standing("single", 3, logits, labels, tuned=True)

    assert (place.method, place.source, place.tuned) == ("single", 3, True)
    assert place.accuracy == 0.75
    assert place.ci95 == wilson_interval(3, 4)
    assert place.log_loss == pytest.approx(float(torch.nn.functional.cross_entropy(logits, labels)))


def test_a_paired_difference_leaves_out_what_both_get_right_or_wrong() -> None:
    labels = torch.zeros(100, dtype=torch.int64)
    both = [0] * 60 + [1] * 20
    a = logits_for(
        [*both, *[0] * 15, *[1] * 5]
    )  # right where b is wrong 15 times, and 5 the other way
    b = logits_for([*both, *[1] * 15, *[0] * 5])

    mean, low, high = paired_difference(a, b, labels)

    assert mean == pytest.approx(0.10)
    # Half an image more in each cell: 15.5 and 5.5 of 102.
    centre = 10 / 102
    half = 1.959963984540054 * ((21 / 102 - centre**2) / 102) ** 0.5
    assert (low, high) == (pytest.approx(centre - half), pytest.approx(centre + half))
    assert paired_difference(b, a, labels) == pytest.approx((-mean, -high, -low))


def test_those_who_get_the_same_right_differ_by_nothing_or_a_little() -> None:
    labels = torch.zeros(20, dtype=torch.int64)
    same = logits_for([0] * 12 + [1] * 8)

    mean, low, high = paired_difference(same, same, labels)

    assert mean == 0
    assert 0 < high == -low < 0.1


@pytest.mark.parametrize(("only_a", "beyond_chance"), [(4, False), (5, True)])
def test_a_few_images_are_not_beyond_chance(only_a: int, beyond_chance: bool) -> None:
    labels = torch.zeros(100, dtype=torch.int64)
    a, b = (logits_for([0] * (50 + extra) + [1] * (50 - extra)) for extra in (only_a, 0))
    assert (paired_difference(a, b, labels)[1] > 0) is beyond_chance


@pytest.mark.parametrize("num_images", [1, 2, 3])
def test_one_image_says_next_to_nothing(num_images: int) -> None:
    labels = torch.zeros(num_images, dtype=torch.int64)
    right, wrong = logits_for([0] * num_images), logits_for([1] * num_images)
    mean, low, high = paired_difference(right, wrong, labels)
    assert mean == 1
    assert low < 0.5
    assert high - low > 0.5


def test_a_paired_interval_covers_the_truth_as_often_as_it_says() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.zeros(200, dtype=torch.int64)
    covered = 0
    for _ in range(400):
        right_a = torch.rand(200, generator=generator) < 0.7
        right_b = torch.where(
            torch.rand(200, generator=generator) < 0.8,
            right_a,
            torch.rand(200, generator=generator) < 0.6,
        )
        truth = 0.7 - (0.8 * 0.7 + 0.2 * 0.6)
        _, low, high = paired_difference(
            logits_for((~right_a).long().tolist()), logits_for((~right_b).long().tolist()), labels
        )
        covered += low <= truth <= high
    assert 0.91 <= covered / 400 <= 0.98


def test_validation_counts_confusions_by_truth_and_prediction() -> None:
    labels = torch.tensor([0, 0, 1, 2, 2, 2])

    found = validate(logits_for([0, 1, 1, 2, 0, 2]), labels)

    assert found.num_images == 6
    assert found.accuracy == pytest.approx(4 / 6)
    assert found.confusion_matrix.tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 2]]


def with_confidence(confidence: float) -> Tensor:
    """Logits (2,) of class 0 at a confidence above one half."""
    return torch.tensor([confidence, 1 - confidence], dtype=torch.float64).log()


def test_calibration_error_is_its_definition() -> None:
    confidences = torch.tensor([0.51, 0.52, 0.71, 0.72, 0.73, 0.99], dtype=torch.float64)
    right = torch.tensor([1, 0, 1, 1, 0, 1])
    logits = torch.stack([with_confidence(float(c)) for c in confidences])

    found = validate(logits, 1 - right)

    # Bins of 1/15: {0.51, 0.52}, {0.71, 0.72, 0.73}, {0.99}.
    bins = [(0.515, 0.5, 2), (0.72, 2 / 3, 3), (0.99, 1.0, 1)]
    expected = sum(count / 6 * abs(conf - acc) for conf, acc, count in bins)
    assert found.ece == pytest.approx(expected, rel=1e-9)


def test_perfect_and_worst_calibration() -> None:
    labels = torch.tensor([0] * 3 + [1])
    honest = torch.stack([with_confidence(0.75)] * 4)
    boastful = torch.stack([with_confidence(1 - 1e-9)] * 4)

    assert validate(honest, labels).ece == pytest.approx(0, abs=1e-9)
    assert validate(boastful, torch.ones_like(labels)).ece == pytest.approx(1, abs=1e-6)
    # A confidence of exactly 1 has a bin too.
    assert validate(torch.tensor([[800.0, 0.0]] * 4), labels).ece == pytest.approx(0.25)
