import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemble.errors import TooFewImagesError
from ensemble.splits import stratified_split


@settings(deadline=None, max_examples=40, derandomize=True)
@given(
    st.lists(st.integers(0, 5), min_size=2, max_size=80),
    st.floats(0.05, 0.95),
    st.integers(0, 2**63 - 1),
)
def test_every_class_is_divided_and_keeps_an_image(
    labels: list[int], fraction: float, seed: int
) -> None:
    classes = torch.tensor(labels)
    counts = [labels.count(c) for c in set(labels)]
    if all(round(n * fraction) == 0 or n == 1 for n in counts):
        with pytest.raises(TooFewImagesError, match=f"{len(labels)} images in {len(counts)} class"):
            stratified_split(classes, fraction, seed)
        return

    train, held_out = stratified_split(classes, fraction, seed)

    assert sorted([*train.tolist(), *held_out.tolist()]) == list(range(len(labels)))
    assert train.tolist() == sorted(train.tolist())
    assert held_out.tolist() == sorted(held_out.tolist())
    for c in set(labels):
        n = labels.count(c)
        assert int((classes[train] == c).sum()) == n - min(n - 1, round(n * fraction))
        assert (classes[train] == c).any()


def test_the_seed_alone_decides() -> None:
    labels = torch.arange(60) % 3

    first, second, other = (stratified_split(labels, 0.3, seed) for seed in (1, 1, 2))

    assert torch.equal(first[1], second[1])
    assert not torch.equal(first[1], other[1])


def test_a_rare_class_is_never_held_out_whole() -> None:
    labels = torch.tensor([0] * 10 + [1, 1] + [2])

    train, held_out = stratified_split(labels, 0.5, 0)

    assert sorted(labels[held_out].tolist()) == [0] * 5 + [1]
    assert sorted(labels[train].tolist()) == [0] * 5 + [1, 2]
