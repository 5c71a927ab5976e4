import pytest
import torch
from torch import Tensor

from ensemble.errors import NonFiniteError, ShapeError
from ensemble.projection import t_sne


def clusters(sizes: tuple[int, ...], *, width: int = 24, spread: float = 0.3) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(3)
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    centres = torch.randn(len(sizes), width, generator=generator)
    return centres[labels] + spread * torch.randn(len(labels), width, generator=generator), labels


def in_unit_box(layout: Tensor) -> bool:
    return bool((layout >= 0).all() and (layout <= 1).all())


def test_separated_clusters_stay_separated() -> None:
    features, labels = clusters((40, 25, 15))
    layout = t_sne(features, seed=0)
    assert layout.shape == (80, 2)
    assert layout.dtype == torch.float64
    assert in_unit_box(layout)
    distance = torch.cdist(layout, layout).fill_diagonal_(torch.inf)
    assert bool((labels[distance.argmin(1)] == labels).all())
    same = labels[:, None] == labels
    radius = distance.masked_fill(~same, torch.inf).min(1).values.max()
    assert distance.masked_fill(same, torch.inf).min() > radius


def test_the_layout_fills_the_box_and_keeps_its_proportions() -> None:
    layout = t_sne(clusters((30, 10))[0], seed=0)
    low, high = layout.min(0).values, layout.max(0).values
    assert float((high - low).max()) == pytest.approx(1.0)
    assert (low + high).tolist() == pytest.approx([1.0, 1.0])


def test_the_same_seed_gives_the_same_layout() -> None:
    features, _ = clusters((60, 60), spread=2.0)
    first = t_sne(features, seed=2**63 - 1)
    assert torch.equal(t_sne(features, seed=2**63 - 1), first)
    assert torch.equal(t_sne(features.clone(), seed=2**32 - 1), first)  # the seed's low 32 bits


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("width", [1, 2, 7])
def test_a_few_points_are_kept_apart(count: int, width: int) -> None:
    features = torch.arange(count * width, dtype=torch.float32).view(count, width) ** 2
    layout = t_sne(features, seed=1)
    assert layout.shape == (count, 2)
    assert in_unit_box(layout)
    if count > 1:
        assert torch.pdist(layout).min() > 0.05


@pytest.mark.parametrize("value", [0.0, -2.5, 1e30])
def test_identical_features_lie_in_the_middle(value: float) -> None:
    assert t_sne(torch.full((5, 6), value), seed=0).tolist() == [[0.5, 0.5]] * 5


def test_repeated_features_lie_together() -> None:
    features, labels = clusters((12, 12), spread=0.0)
    layout = t_sne(features, seed=0)
    assert bool(layout.isfinite().all())
    distance = torch.cdist(layout, layout).fill_diagonal_(torch.inf)
    assert bool((labels[distance.argmin(1)] == labels).all())


@pytest.mark.parametrize("scale", [1e-20, 1e20])
def test_the_unit_of_the_features_does_not_matter(scale: float) -> None:
    features, labels = clusters((15, 15))
    layout = t_sne(features.double() * scale, seed=0)
    distance = torch.cdist(layout, layout).fill_diagonal_(torch.inf)
    assert bool((labels[distance.argmin(1)] == labels).all())


def test_features_may_be_of_half_precision_and_carry_gradients() -> None:
    features = clusters((6, 6))[0].bfloat16().requires_grad_()
    layout = t_sne(features, seed=0)
    assert not layout.requires_grad
    assert in_unit_box(layout)


@pytest.mark.parametrize("shape", [(4,), (0, 3), (3, 0), (2, 2, 2)])
def test_what_is_no_matrix_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match=r"expected \(N, D\)"):
        t_sne(torch.zeros(shape), seed=0)


def test_values_that_are_not_finite_are_refused() -> None:
    with pytest.raises(NonFiniteError, match="NaN or infinite"):
        t_sne(torch.tensor([[0.0, 1.0], [float("nan"), 2.0]]), seed=0)
