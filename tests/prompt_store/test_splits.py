import itertools
import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from prompt_store.splits import (
    InvalidSplitError,
    Share,
    Split,
    drawn_version,
    keyed_version,
)

KEYS = [f"user-{i}" for i in range(20_000)]


def split_of(**weights: float) -> Split:
    return Split.of([Share(version=int(v[1:]), weight=w) for v, w in weights.items()])


def assigned(weights: dict[int, float], salt: str = "zoo@prod") -> list[int]:
    return [keyed_version(weights, salt, key) for key in KEYS]


def test_one_version_gets_everything() -> None:
    split = Split.only(3)
    assert (split.version, split.weights) == (3, {3: 1.0})
    assert split == split_of(v3=1.0)
    assert set(assigned(split.weights)) == {3}


def test_shares_are_ordered_and_rounding_is_divided_out() -> None:
    split = split_of(v7=0.333333, v2=0.333333, v5=0.333334)
    assert list(split.weights) == [2, 5, 7]
    assert split.version is None
    thirds = split_of(v1=0.3333333, v2=0.3333333, v3=0.3333333)
    assert math.fsum(thirds.weights.values()) == pytest.approx(1, abs=1e-15)


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ({"v2": 0.9, "v3": 0.01}, "sum to 0.91"),
        ({"v2": 0.9, "v3": 0.2}, r"sum to 1\.1"),
        ({"v2": 0.5}, r"sum to 0\.5"),
        ({"v2": 0.5, "v3": 0.499998}, "sum to 0.999998"),
        ({f"v{i}": 1 / 11 for i in range(1, 12)}, "11 versions; expected 1 to 10"),
        ({}, "0 versions; expected 1 to 10"),
    ],
)
def test_what_does_not_sum_to_one_is_refused(weights: dict[str, float], said: str) -> None:
    with pytest.raises(InvalidSplitError, match=said):
        split_of(**weights)


def test_a_version_twice_is_refused() -> None:
    with pytest.raises(InvalidSplitError, match=r"versions \[3, 3\] repeat one") as caught:
        Split.of([Share(version=3, weight=0.5), Share(version=3, weight=0.5)])
    assert caught.value.limit is None


@pytest.mark.parametrize(
    "weight", [0, 0.0, -0.1, 1.1, math.nan, math.inf, -math.inf, 1e-7, True, "0.5", None]
)
def test_weights_are_probabilities(weight: object) -> None:
    with pytest.raises(ValidationError):
        Share.model_validate({"version": 1, "weight": weight})


@pytest.mark.parametrize("version", [0, -1, 100_000_000, 1.0, "1", True, None])
def test_versions_are_versions(version: object) -> None:
    with pytest.raises(ValidationError):
        Share.model_validate({"version": version, "weight": 0.5})


def test_draws_fall_on_versions_by_weight() -> None:
    weights = split_of(v2=0.9, v3=0.1).weights
    assert drawn_version(weights, 0.0) == 2
    assert drawn_version(weights, 0.8999) == 2
    assert drawn_version(weights, 0.9001) == 3
    assert drawn_version(weights, math.nextafter(1, 0)) == 3
    rounded_down = {1: 0.3, 2: 0.3, 4: 0.3999999999}
    assert drawn_version(rounded_down, math.nextafter(1, 0)) == 4


@pytest.mark.parametrize(
    "weights", [{2: 0.9, 3: 0.1}, {1: 0.5, 2: 0.3, 9: 0.2}, {4: 0.01, 5: 0.99}]
)
def test_keys_fall_on_versions_by_weight(weights: dict[int, float]) -> None:
    found = Counter(assigned(weights))
    for version, weight in weights.items():
        deviation = math.sqrt(weight * (1 - weight) / len(KEYS))
        assert found[version] / len(KEYS) == pytest.approx(weight, abs=5 * deviation)


def test_a_key_stays_and_few_move_when_the_weights_change() -> None:
    before = assigned({2: 0.9, 3: 0.1})
    assert assigned({2: 0.9, 3: 0.1}) == before
    for share in (0.2, 0.5, 1 - 1e-6):
        after = assigned({2: 1 - share, 3: share})
        moved = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
        assert set(moved) == {(2, 3)}  # nobody is moved the other way
        assert len(moved) / len(KEYS) == pytest.approx(share - 0.1, abs=0.02)


def test_a_version_that_comes_or_goes_moves_only_its_own_keys() -> None:
    three = assigned({1: 0.4, 2: 0.4, 3: 0.2})
    two = assigned({1: 0.5, 2: 0.5})
    for old, new in zip(three, two, strict=True):
        assert old in (new, 3)


def test_names_are_split_independently() -> None:
    one, other = assigned({1: 0.5, 2: 0.5}), assigned({1: 0.5, 2: 0.5}, salt="zoo@canary")
    found = Counter(zip(one, other, strict=True))
    for pair in itertools.product((1, 2), repeat=2):
        assert found[pair] / len(KEYS) == pytest.approx(0.25, abs=0.02)


@given(
    st.dictionaries(st.integers(1, 99_999_999), st.floats(1e-6, 1), min_size=1, max_size=10),
    st.text(min_size=1, max_size=255),
    st.floats(0, 1, exclude_max=True),
)
def test_some_version_is_always_found(weights: dict[int, float], key: str, uniform: float) -> None:
    total = math.fsum(weights.values())
    scaled = {version: weight / total for version, weight in weights.items()}
    assert keyed_version(scaled, "a@b", key) in weights
    assert drawn_version(scaled, uniform) in weights
