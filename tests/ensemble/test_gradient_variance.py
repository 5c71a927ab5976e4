from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ensemble.class_head import fit_class_head
from ensemble.gradient_variance import (
    GradientMoments,
    GradientVariancePenalty,
    gradient_cosine,
    loss_cotangents,
    prompt_gradient_moments,
)
from ensemble.prompted_vit import PromptedViT

quick = settings(deadline=None, max_examples=30, derandomize=True)


def literal_penalty(variances: Tensor, weights: Tensor) -> Tensor:
    """R as the formula is printed, element by element and without its epsilon."""
    M = len(variances)
    v = [weight**2 * u for weight, u in zip(weights, variances.double(), strict=True)]
    mean = torch.stack(v).mean(0)
    spread = torch.stack([((each - mean) ** 2).mean() for each in v]).sum()
    return spread / (mean**2).mean() / max(1, M * (M - 1))


@quick
@given(st.integers(1, 6), st.integers(1, 40), st.integers(0, 2**31))
def test_penalty_is_the_literal_formula(num_sources: int, size: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    u = torch.rand(num_sources, size, generator=generator)
    weights = torch.rand(num_sources, generator=generator, dtype=torch.float64) + 0.01
    weights /= weights.sum()

    value = float(GradientVariancePenalty(u)(weights))

    assert value == pytest.approx(float(literal_penalty(u, weights)), rel=1e-7, abs=1e-9)
    assert value >= -1e-9


def test_penalty_of_a_hundred_sources_is_the_literal_formula_too() -> None:
    """Their mean variance is small: what keeps it from 0 may not count."""
    u = torch.rand(100, 20, generator=torch.Generator().manual_seed(0))
    weights = torch.full((100,), 0.01, dtype=torch.float64)

    value = float(GradientVariancePenalty(u)(weights))

    assert value == pytest.approx(float(literal_penalty(u, weights)), rel=1e-7)


def test_penalty_is_that_of_prompts_of_any_shape() -> None:
    u = torch.rand(3, 2, 4, 5, generator=torch.Generator().manual_seed(0))
    weights = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)

    value = float(GradientVariancePenalty(u)(weights))

    assert value == pytest.approx(float(literal_penalty(u.flatten(1), weights)), rel=1e-9)


@pytest.mark.parametrize("num_sources", [1, 2, 5])
def test_penalty_is_zero_where_variances_match_and_largest_at_a_vertex(num_sources: int) -> None:
    u = torch.rand(1, 20, generator=torch.Generator().manual_seed(0)).expand(num_sources, -1)
    penalty = GradientVariancePenalty(u)
    M = num_sources

    assert float(penalty(torch.full((M,), 1 / M, dtype=torch.float64))) == pytest.approx(
        0, abs=1e-9
    )
    for vertex in torch.eye(M, dtype=torch.float64):
        assert float(penalty(vertex)) == pytest.approx(1 if M > 1 else 0, rel=1e-6)


def test_unequal_variances_match_where_the_weights_make_up_for_them() -> None:
    u = torch.rand(1, 20) * torch.tensor([[1.0], [4.0], [16.0]])
    weights = torch.tensor([4.0, 2.0, 1.0], dtype=torch.float64) / 7

    assert float(GradientVariancePenalty(u)(weights)) == pytest.approx(0, abs=1e-6)


@quick
@given(st.floats(-30, 30).map(lambda exponent: 10.0**exponent))
def test_penalty_has_no_unit(scale: float) -> None:
    u = torch.rand(3, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weights = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)

    expected = float(GradientVariancePenalty(u)(weights))

    assert float(GradientVariancePenalty(scale * u)(weights)) == pytest.approx(expected, rel=1e-6)


def test_penalty_gradient_is_that_of_finite_differences() -> None:
    penalty = GradientVariancePenalty(torch.rand(4, 9, generator=torch.Generator().manual_seed(0)))
    weights = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64, requires_grad=True)

    assert torch.autograd.gradcheck(penalty, weights)


def test_penalty_of_no_variance_is_zero_with_a_zero_gradient() -> None:
    penalty = GradientVariancePenalty(torch.zeros(3, 4))
    weights = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64, requires_grad=True)

    value = penalty(weights)
    (gradient,) = torch.autograd.grad(value, weights)

    assert float(value.detach()) == 0
    assert gradient.tolist() == [0, 0, 0]


@pytest.mark.parametrize("num_layers", [1, 3])
def test_moments_are_those_of_a_loop_over_images(
    vit: PromptedViT,
    pixels: Tensor,
    make_prompts: Callable[..., list[Tensor]],
    num_layers: int,
) -> None:
    prompts = make_prompts(2, num_layers=num_layers)
    cotangents = torch.randn(8, vit.embed_dim, generator=torch.Generator().manual_seed(2))
    told: list[int] = []

    moments = prompt_gradient_moments(
        vit, pixels, torch.stack(prompts), cotangents, batch_size=3, on_batch=told.append
    )

    for found, prompt in zip(moments, prompts, strict=True):
        gradients: list[Tensor] = []
        for image, cotangent in zip(pixels, cotangents, strict=True):
            leaf = prompt.clone().requires_grad_()
            (vit(image[None], leaf)[0] @ cotangent).backward()
            assert leaf.grad is not None
            gradients.append(leaf.grad.double())
        loop = torch.stack(gradients)
        torch.testing.assert_close(found.mean, loop.mean(0), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.variance, loop.var(0, correction=0), rtol=1e-3, atol=1e-5)
        assert found.mean.shape == prompt.shape
    assert told == [0, 3, 6, 9, 12, 15]


def test_moments_of_one_image_have_no_variance(
    vit: PromptedViT, pixels: Tensor, make_prompts: Callable[..., list[Tensor]]
) -> None:
    (found,) = prompt_gradient_moments(
        vit, pixels[:1], torch.stack(make_prompts(1)), torch.ones(1, vit.embed_dim), batch_size=4
    )

    assert found.variance.abs().max() < 1e-12
    assert found.mean.abs().max() > 0


def test_cotangents_are_the_gradient_of_the_loss() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(12, 5, dtype=torch.float64, generator=generator)
    labels = torch.arange(12) % 3
    head = fit_class_head(features, labels, 3)
    leaf = features.clone().requires_grad_()

    loss = torch.nn.functional.cross_entropy(head.logits(leaf), labels, reduction="sum")
    (expected,) = torch.autograd.grad(loss, leaf)

    found = loss_cotangents(head.weight, head.logits(features), labels)
    torch.testing.assert_close(found, expected)


def test_cosine_shows_agreement_conflict_and_silence() -> None:
    x, y = torch.tensor([1.0, 2.0, 0.0]), torch.tensor([-2.0, 1.0, 0.0])
    moments = [
        GradientMoments(mean.view(1, 1, 3), torch.ones(1, 1, 3))
        for mean in (x, 1e-20 * x, -x, y, 0 * x)
    ]

    cosine = gradient_cosine(moments)

    expected = torch.tensor(
        [
            [1.0, 1.0, -1.0, 0.0, 0.0],
            [1.0, 1.0, -1.0, 0.0, 0.0],
            [-1.0, -1.0, 1.0, 0.0, 0.0],
            [0.0, 0.0, 0.0, 1.0, 0.0],
            [0.0, 0.0, 0.0, 0.0, 0.0],
        ]
    )
    torch.testing.assert_close(cosine, expected)


def test_no_cosine_is_larger_than_1() -> None:
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(50, 3, 5, 7, generator=generator, dtype=torch.float64)
    cosine = gradient_cosine([GradientMoments(mean, mean**2) for mean in means])
    assert cosine.abs().max() <= 1.0
