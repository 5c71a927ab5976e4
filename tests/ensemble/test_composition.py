import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ensemble.composition import (
    align_tokens,
    compose,
    composite_digest,
    composition_gap,
    stack_prompts,
)
from ensemble.errors import FitStoppedError, NonFiniteError, ShapeError
from ensemble.prompted_vit import PromptedViT

quick = settings(deadline=None, max_examples=25, derandomize=True)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def shuffled(prompt: Tensor, seed: int) -> Tensor:
    """The prompt (L, P, D) with the tokens of each layer in an order of their own."""
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([layer[torch.randperm(len(layer), generator=generator)] for layer in prompt])


@quick
@given(st.integers(1, 3), st.integers(1, 9), st.integers(0, 2**31))
def test_alignment_undoes_any_permutation(num_layers: int, num_tokens: int, seed: int) -> None:
    reference = normal(num_layers, num_tokens, 8, seed=seed)
    others = [shuffled(reference + 0.01 * normal(*reference.shape, seed=i), i) for i in (1, 2)]

    aligned = align_tokens(torch.stack([reference, *others]))

    assert torch.equal(aligned[0], reference)
    for source in aligned:
        torch.testing.assert_close(source, reference, atol=0.1, rtol=0)


def test_which_of_two_sources_is_the_reference_is_no_matter_of_rounding() -> None:
    """Both are equally near to each other; the last bits are others on another machine."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(30):
        one, other = torch.randn(2, 1, 8, 64, generator=generator)
        longer = 1.01 * other * one.norm() / other.norm()

        here, swapped = (
            align_tokens(torch.stack([one, longer])),
            align_tokens(torch.stack([longer, one])),
        )

        assert torch.equal(here[0], one)
        assert torch.equal(here, swapped.flip(0))


def test_alignment_is_the_nearest_of_all_permutations() -> None:
    prompts = normal(2, 1, 4, 6)
    orders = torch.cartesian_prod(*[torch.arange(4)] * 4)
    orders = [order for order in orders if len(set(order.tolist())) == 4]

    aligned = align_tokens(prompts)

    found = float(((aligned[1] - aligned[0]) ** 2).sum())
    distances = [float(((prompts[1, :, order] - prompts[0]) ** 2).sum()) for order in orders]
    assert found == pytest.approx(min(distances), rel=1e-6)
    assert len(distances) == 24


def test_alignment_changes_no_source_but_changes_their_mean(
    vit: PromptedViT, pixels: Tensor
) -> None:
    prompts = normal(3, vit.depth, 5, vit.embed_dim)

    aligned = align_tokens(prompts)

    for before, after in zip(prompts, aligned, strict=True):
        assert sorted(map(tuple, before.flatten(0, 1).tolist())) == sorted(
            map(tuple, after.flatten(0, 1).tolist())
        )
        torch.testing.assert_close(vit(pixels, after), vit(pixels, before), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(vit(pixels, aligned.mean(0)), vit(pixels, prompts.mean(0)), atol=0.01)


def test_a_source_and_its_permutation_compose_to_the_source() -> None:
    prompt = normal(2, 6, 8)
    aligned = align_tokens(torch.stack([prompt, shuffled(prompt, 5)]))

    composite = compose(aligned, torch.tensor([0.3, 0.7], dtype=torch.float64))

    torch.testing.assert_close(composite, prompt)


def test_a_composite_is_the_weighted_sum() -> None:
    prompts, weights = normal(3, 2, 4, 8), torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)

    composite = compose(prompts, weights)

    # In this order, in float64: the digest of a composite hangs on its last bits.
    a, b, c = prompts.double().numpy()
    expected = (0.2 * a + 0.5 * b) + 0.3 * c
    assert composite.dtype == torch.float32
    assert np.array_equal(composite.numpy(), expected.astype(np.float32))


@quick
@given(st.integers(1, 6), st.integers(0, 2**31))
def test_equal_sources_compose_to_themselves_bit_for_bit(num_sources: int, seed: int) -> None:
    prompt = normal(1, 3, 4, seed=seed)
    raw = torch.rand(
        num_sources, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )

    composite = compose(prompt.expand(num_sources, 1, 1, 3, 4)[:, 0], raw / raw.sum())

    assert torch.equal(composite, prompt)


@pytest.mark.parametrize("weights", [[0.5], [0.2, 0.3, 0.5], [[0.5, 0.5]]])
def test_a_weight_too_few_or_too_many_is_refused(weights: list[float]) -> None:
    with pytest.raises(ShapeError, match=r"expected \(M, L, P, D\) and \(M,\)"):
        compose(normal(2, 1, 3, 4), torch.tensor(weights))


def test_prompts_stack_if_their_shapes_agree() -> None:
    stacked = stack_prompts([normal(2, 3, 4), normal(2, 3, 4).half()])

    assert (stacked.shape, stacked.dtype) == ((2, 2, 3, 4), torch.float32)
    with pytest.raises(ShapeError, match=r"shapes \[\(1, 3, 4\), \(2, 3, 4\)\]; all must be"):
        stack_prompts([normal(2, 3, 4), normal(1, 3, 4)])
    for shape in ((3, 4), (2, 0, 4), (0, 3, 4), (1, 2, 3, 4)):
        with pytest.raises(ShapeError, match=r"expected \(L, P, D\)"):
            stack_prompts([torch.zeros(shape)])
    with pytest.raises(ShapeError, match=r"shapes \[\]"):
        stack_prompts([])
    for value in (math.nan, math.inf):
        with pytest.raises(NonFiniteError, match="NaN or infinite"):
            stack_prompts([torch.full((1, 2, 3), value)])


def test_a_digest_names_the_values_and_the_shape() -> None:
    prompt = torch.arange(6, dtype=torch.float32).view(1, 2, 3) / 4

    digest = composite_digest(prompt)

    # Of the text "1x2x3" and the little-endian values 0, 0.25 … 1.25, by `hashlib`.
    assert digest == "sha256:ef6f6f58230ee082d6e4b58caf53e860b19a008532e4be8ed4f16f5e377b956f"
    assert composite_digest(prompt.double().requires_grad_()) == digest
    assert composite_digest(prompt.mT.contiguous().mT) == digest
    assert composite_digest(prompt.view(2, 1, 3)) != digest
    assert composite_digest(prompt + 1e-6) != digest
    assert composite_digest(torch.zeros(1, 0, 3)) != composite_digest(torch.zeros(1, 0, 4))


def test_the_gap_is_its_definition() -> None:
    features, composite = normal(3, 10, 4).double(), normal(10, 4, seed=1).double()
    weights = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)

    gap = composition_gap(composite, features, weights)

    above, below = 0.0, 0.0
    for n in range(10):
        mean = sum((w * f for w, f in zip(weights, features[:, n], strict=True)), torch.zeros(4))
        above += float(((composite[n] - mean) ** 2).sum())
        for weight, feature in zip(weights, features[:, n], strict=True):
            below += float(weight * ((feature - mean) ** 2).sum())
    assert gap == pytest.approx(above / below, rel=1e-9)


def test_the_gap_is_zero_at_the_mean_and_one_as_far_off_as_the_sources() -> None:
    features = torch.stack((torch.zeros(5, 2), 2 * torch.ones(5, 2)))
    weights = torch.tensor([0.5, 0.5])

    assert composition_gap(torch.ones(5, 2), features, weights) == 0
    assert composition_gap(torch.zeros(5, 2), features, weights) == pytest.approx(1)


@pytest.mark.parametrize("weights", [[1.0, 0.0, 0.0], [0.2, 0.3, 0.5]])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_the_gap_of_sources_that_do_not_differ_is_not_a_number(
    weights: list[float], scale: float
) -> None:
    features = scale * normal(1, 10, 4).expand(3, -1, -1)

    assert math.isnan(composition_gap(features[0] * (1 + 1e-7), features, torch.tensor(weights)))


def test_the_gap_is_small_for_prompts_that_are_near_each_other(
    vit: PromptedViT, pixels: Tensor, make_prompts: Callable[..., list[Tensor]]
) -> None:
    """The gap in feature space is second order in the spread of the prompts, hence so is Gamma."""
    centre, offset = make_prompts(2)
    weights = torch.tensor([0.5, 0.5], dtype=torch.float64)

    def gap(spread: float) -> float:
        sources = torch.stack((centre + spread * offset, centre - spread * offset))
        features = torch.stack([vit(pixels, source) for source in sources])
        return composition_gap(vit(pixels, compose(sources, weights)), features, weights)

    assert gap(0.02) < gap(0.2) < gap(2.0)
    assert gap(0.02) / gap(0.2) == pytest.approx(0.01, rel=0.9)


def test_alignment_stops_between_pairs() -> None:
    asked: list[None] = []

    def should_stop() -> bool:
        asked.append(None)
        return len(asked) > 2

    with pytest.raises(FitStoppedError, match="aligned"):
        align_tokens(normal(4, 1, 3, 2), should_stop)
    assert len(asked) == 3
