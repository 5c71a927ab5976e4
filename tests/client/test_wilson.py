import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.wilson import wilson_interval


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    # scipy.stats.binomtest(k, n).proportion_ci(0.95, "wilson")
    [(8, 10, 0.490162, 0.943318), (50, 60, 0.719684, 0.906868), (0, 20, 0.0, 0.161125)],
)
def test_agrees_with_scipy(successes: int, trials: int, low: float, high: float) -> None:
    assert wilson_interval(successes, trials) == pytest.approx((low, high), abs=1e-6)


@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_holds_the_proportion_and_stays_within_the_unit_interval(counts: tuple[int, int]) -> None:
    low, high = wilson_interval(*counts)
    assert 0.0 <= low <= counts[0] / counts[1] <= high <= 1.0


@pytest.mark.parametrize("counts", [(1, 0), (3, 2), (-1, 2)])
def test_impossible_counts_are_refused(counts: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="successes of"):
        wilson_interval(*counts)
