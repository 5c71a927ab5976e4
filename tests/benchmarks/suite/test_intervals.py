import math

import numpy as np
import pandas as pd
import pytest
import scikit_posthocs
from scipy import stats

from benchmarks.suite.intervals import (
    critical_difference,
    friedman_p,
    image_interval,
    mean_ranks,
    t_interval,
    win_rates,
)


@pytest.fixture
def accuracies() -> np.ndarray:
    """(5 methods, 12 tasks), the last method the best."""
    rng = np.random.default_rng(0)
    return rng.normal(0.7, 0.02, (5, 12)) + np.array([0, 0.01, 0.02, 0.02, 0.06])[:, None]


def test_t_interval_is_that_of_scipys_paired_test(accuracies: np.ndarray) -> None:
    ours, theirs = accuracies[4], accuracies[0]
    interval = t_interval(ours - theirs)
    right = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    assert interval.mean == pytest.approx(float((ours - theirs).mean()))
    assert (interval.low, interval.high) == pytest.approx((right.low, right.high))


def test_one_task_has_no_interval() -> None:
    interval = t_interval(np.array([0.02]))
    assert (interval.low, interval.high) == (None, None)
    assert str(interval) == "+0.020"


def test_image_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(400):
        easy = rng.uniform(size=(1, 300))  # the same images are hard for both
        ours, theirs = ((easy + rng.normal(0, 0.2, (3, 300)) < t) for t in (0.75, 0.70))
        interval = image_interval(ours.astype(float), theirs.astype(float))
        assert interval.low is not None
        assert interval.high is not None
        covered += interval.low <= 0.05 <= interval.high
    assert 0.92 <= covered / 400 <= 0.98


def test_the_seeds_of_an_image_are_no_other_images() -> None:
    """Of 100 images 30 are right only here and 10 only there: 0.2 +- 1.96 sqrt(0.36 / 100)."""
    right = np.repeat([[1, 0], [0, 1], [1, 1]], [30, 10, 60], axis=0)
    ours, theirs = right.T[:, None].astype(float)
    one, three = (image_interval(ours.repeat(n, 0), theirs.repeat(n, 0)) for n in (1, 3))
    assert (one.mean, one.low, one.high) == pytest.approx((0.2, 0.0824, 0.3176), abs=1e-4)
    assert (three.mean, three.low, three.high) == pytest.approx((one.mean, one.low, one.high))


def test_win_rates_count_a_tie_half() -> None:
    rates = win_rates(np.array([[0.9, 0.8, 0.7, 0.5], [0.9, 0.7, 0.8, 0.4]]))
    assert rates.tolist() == [[0.5, 0.625], [0.375, 0.5]]


def test_mean_ranks_average_ties() -> None:
    ranks = mean_ranks(np.array([[0.9, 0.8], [0.9, 0.7], [0.1, 0.9]]))
    assert ranks.tolist() == [1.75, 2.25, 2.0]


def test_critical_difference_is_demsars_table_and_the_librarys_test(
    accuracies: np.ndarray,
) -> None:
    # Table 5(a): q = 2.728 for 5 classifiers.
    cd = critical_difference(5, 12)
    assert cd == pytest.approx(2.728 * math.sqrt(5 * 6 / (6 * 12)), abs=1e-3)
    p = scikit_posthocs.posthoc_nemenyi_friedman(pd.DataFrame(accuracies.T)).to_numpy()
    ranks = mean_ranks(accuracies)
    differ = np.abs(ranks[:, None] - ranks[None, :]) > cd
    assert np.array_equal(differ, p < 0.05)
    assert 0 < differ.sum() < 20


def test_friedman_needs_three_methods_that_differ(accuracies: np.ndarray) -> None:
    p = friedman_p(accuracies)
    # Without ties: 12 n / (k (k + 1)) times the variation of the mean ranks about (k + 1) / 2.
    variation = ((mean_ranks(accuracies) - 3) ** 2).sum()
    assert p == pytest.approx(float(stats.chi2.sf(12 * 12 / (5 * 6) * variation, 4)))
    assert friedman_p(accuracies[:3, :2]) is not None
    assert friedman_p(accuracies[:2]) is None
    assert friedman_p(accuracies[:, :1]) is None
    assert friedman_p(np.tile(accuracies[0], (5, 1))) is None
