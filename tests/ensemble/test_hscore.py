"""The scores against NumPy oracles in float64, their invariants, and their behaviour at chance."""

import warnings
from collections.abc import Callable
from functools import partial
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from ensemble.errors import DegenerateFeaturesError, NonFiniteError, ShapeError
from ensemble.hscore import (
    adjusted_h_score,
    adjusted_h_score_and_gradient,
    cholesky,
    class_moments,
    h_score,
)
from ensemble.options import FitOptions

RHO = 0.05
quick = settings(deadline=None, max_examples=30, derandomize=True)


def oracle_h(features: Tensor, labels: Tensor) -> float:
    """tr(cov(f)^+ cov(E[f|y])), written as in the paper."""
    f, y = features.double().numpy(), labels.numpy()
    means = np.stack([f[y == label].mean(0) for label in y])
    cov_f = np.atleast_2d(np.cov(f, rowvar=False, bias=True))
    cov_g = np.atleast_2d(np.cov(means, rowvar=False, bias=True))
    return float(np.trace(np.linalg.pinv(cov_f, rcond=1e-11, hermitian=True) @ cov_g))


def oracle_adjusted(features: Tensor, labels: Tensor, rho: float) -> float:
    f, y = features.double().numpy(), labels.numpy()
    n, d = f.shape
    S: NDArray[np.float64] = np.atleast_2d(np.cov(f, rowvar=False, bias=True))
    means = np.stack([f[y == label].mean(0) for label in y])
    W: NDArray[np.float64] = np.atleast_2d(np.cov(means, rowvar=False, bias=True))
    inverse = np.linalg.inv((1 - rho) * S + rho * np.trace(S) / d * np.eye(d))
    kappa = (len(set(y.tolist())) - 1) / (n - 1)
    return float((1 - rho) * (np.trace(inverse @ W) - kappa * np.trace(inverse @ S)))


def problem(
    num_images: int, num_features: int, num_classes: int, *, seed: int = 0, signal: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Correlated features with class means of a given strength; every class is there."""
    rng = np.random.default_rng(seed)
    labels = np.concatenate(
        [np.arange(num_classes), rng.integers(0, num_classes, num_images - num_classes)]
    )
    means = signal * rng.standard_normal((num_classes, num_features))
    noise = rng.standard_normal((num_images, num_features)) @ rng.standard_normal(
        (num_features, num_features)
    )
    return torch.from_numpy(3 + noise + means[labels]), torch.from_numpy(labels)


def rotation(size: int, seed: int) -> Tensor:
    return torch.linalg.qr(
        torch.randn(size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    ).Q


SHAPES = [(200, 10, 3), (60, 40, 5), (31, 30, 4), (30, 30, 4), (20, 50, 3), (12, 64, 12), (5, 1, 2)]


@pytest.mark.parametrize("shape", SHAPES)
def test_h_score_is_that_of_the_paper(shape: tuple[int, int, int]) -> None:
    features, labels = problem(*shape)

    assert float(h_score(features, labels)) == pytest.approx(oracle_h(features, labels), rel=1e-8)


@pytest.mark.parametrize("rho", [0.001, 0.05, 0.5, 0.99])
@pytest.mark.parametrize("shape", SHAPES)
def test_adjusted_score_is_its_definition(shape: tuple[int, int, int], rho: float) -> None:
    features, labels = problem(*shape)
    expected = oracle_adjusted(features, labels, rho)

    score = float(adjusted_h_score(features, labels, shrinkage=rho))
    fast, _ = adjusted_h_score_and_gradient(features, labels, shrinkage=rho)

    assert score == pytest.approx(expected, rel=1e-8, abs=1e-12)
    assert fast == pytest.approx(expected, rel=1e-8, abs=1e-12)


@pytest.mark.parametrize("shape", [(40, 8, 3), (12, 12, 3), (12, 13, 3), (9, 30, 4)])
def test_the_adjusted_gradient_is_that_of_autograd(shape: tuple[int, int, int]) -> None:
    features, labels = problem(*shape)
    leaf = features.clone().requires_grad_()

    _, gradient = adjusted_h_score_and_gradient(features, labels, shrinkage=RHO)

    (expected,) = torch.autograd.grad(adjusted_h_score(leaf, labels, shrinkage=RHO), leaf)
    torch.testing.assert_close(gradient, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("shape", [(14, 5, 3), (9, 12, 3)])
def test_the_adjusted_gradient_is_that_of_finite_differences(shape: tuple[int, int, int]) -> None:
    features, labels = problem(*shape)
    _, gradient = adjusted_h_score_and_gradient(features, labels, shrinkage=RHO)
    step = 1e-5

    for row, column in np.ndindex(*features.shape):
        change = torch.zeros_like(features)
        change[row, column] = step
        up, down = (oracle_adjusted(features + sign * change, labels, RHO) for sign in (1.0, -1.0))
        assert float(gradient[row, column]) == pytest.approx((up - down) / (2 * step), abs=1e-6)


def test_h_score_is_differentiable_where_the_covariance_is_well_conditioned() -> None:
    features, labels = problem(30, 4, 3)

    assert torch.autograd.gradcheck(partial(h_score, labels=labels), features.requires_grad_())


@quick
@given(
    st.integers(2, 6),
    st.integers(1, 8),
    st.integers(0, 60),
    st.integers(0, 2**31),
    st.floats(-6, 6).map(lambda exponent: 10.0**exponent),
)
def test_h_score_is_bounded_and_blind_to_scale_offset_and_names_of_classes(
    num_classes: int, num_features: int, extra: int, seed: int, scale: float
) -> None:
    features, labels = problem(num_classes + 2 + extra, num_features, num_classes, seed=seed)
    names = torch.randperm(num_classes, generator=torch.Generator().manual_seed(seed)) * 7 - 3

    score = float(h_score(features, labels))

    assert -1e-9 <= score <= min(num_classes - 1, num_features) + 1e-9
    assert float(h_score(-scale * features, labels)) == pytest.approx(score, rel=1e-9, abs=1e-12)
    assert float(h_score(features, names[labels])) == pytest.approx(score, rel=1e-9, abs=1e-12)
    assert float(h_score(features + 100, labels)) == pytest.approx(score, rel=1e-6, abs=1e-9)


@quick
@given(st.integers(1, 8), st.integers(0, 2**31))
def test_h_score_does_not_change_under_an_invertible_map(num_features: int, seed: int) -> None:
    features, labels = problem(50, num_features, 3, seed=seed)
    stretch = torch.logspace(-1.5, 1.5, num_features, dtype=torch.float64)
    mixed = rotation(num_features, seed) @ (stretch[:, None] * rotation(num_features, seed + 1))

    score = float(h_score(features, labels))

    assert float(h_score(features @ mixed, labels)) == pytest.approx(score, rel=1e-8)


@quick
@given(
    st.sampled_from([(40, 6, 3), (10, 25, 3)]),
    st.integers(0, 2**31),
    st.floats(-6, 6).map(lambda exponent: 10.0**exponent),
)
def test_adjusted_score_does_not_change_under_scale_and_rotation(
    shape: tuple[int, int, int], seed: int, scale: float
) -> None:
    features, labels = problem(*shape, seed=seed)
    turned = scale * features @ rotation(shape[1], seed) + scale * 10
    names = torch.tensor([5, -2, 9])

    score, gradient = adjusted_h_score_and_gradient(features, labels, shrinkage=RHO)
    same, turned_gradient = adjusted_h_score_and_gradient(turned, names[labels], shrinkage=RHO)

    assert same == pytest.approx(score, rel=1e-9, abs=1e-11)
    # Scale invariance, as Euler has it: no gain along the features, nor along a common offset.
    assert abs(float((gradient * (features - features.mean(0))).sum())) < 1e-9
    assert gradient.sum(0).abs().max() < 1e-9
    torch.testing.assert_close(
        turned_gradient, gradient @ rotation(shape[1], seed) / scale, rtol=1e-5, atol=1e-9 / scale
    )


def chance(num_images: int, num_features: int, *, trials: int) -> tuple[list[float], list[float]]:
    """Plain and adjusted scores of fixed features under permuted labels of five classes."""
    features, _ = problem(num_images, num_features, 1)
    labels = torch.arange(num_images) % 5
    generator = torch.Generator().manual_seed(0)
    plain: list[float] = []
    adjusted: list[float] = []
    for _ in range(trials):
        permuted = labels[torch.randperm(num_images, generator=generator)]
        plain.append(float(h_score(features, permuted)))
        adjusted.append(float(adjusted_h_score(features, permuted, shrinkage=RHO)))
    return plain, adjusted


@pytest.mark.parametrize(("num_images", "num_features"), [(80, 10), (80, 60), (40, 60)])
def test_permuted_labels_score_what_chance_gives(num_images: int, num_features: int) -> None:
    plain, adjusted = chance(num_images, num_features, trials=300)

    expected = 4 * min(num_features, num_images - 1) / (num_images - 1)
    standard_error = np.std(plain) / np.sqrt(len(plain))
    assert abs(np.mean(plain) - expected) < 4 * standard_error + 1e-9
    assert abs(np.mean(adjusted)) < 4 * np.std(adjusted) / np.sqrt(len(adjusted))
    assert np.std(adjusted) > 0.01  # or the line above would hold for any score


def test_with_fewer_images_than_features_the_plain_score_says_nothing() -> None:
    for num_images, num_features in ((20, 20), (21, 20), (10, 30)):
        for signal in (0.0, 10.0):
            features, labels = problem(num_images, num_features, 4, signal=signal)
            assert float(h_score(features, labels)) == pytest.approx(3.0, rel=1e-8)


def test_with_fewer_images_than_features_the_adjusted_score_still_sees_the_signal() -> None:
    scores = [
        float(adjusted_h_score(*problem(24, 40, 3, signal=signal), shrinkage=RHO))
        for signal in (0.0, 5.0, 20.0)
    ]

    assert scores[0] < scores[1] < scores[2]


def test_the_least_shrinkage_that_may_be_asked_for_is_more_than_rounding() -> None:
    """A rotation changes nothing but the rounding."""
    _, bounds = get_args(get_type_hints(FitOptions, include_extras=True)["shrinkage"])
    rng = np.random.default_rng(0)
    features = torch.from_numpy(rng.standard_normal((80, 384)))
    rotation = torch.from_numpy(np.linalg.qr(rng.standard_normal((384, 384)))[0])
    labels = torch.arange(80) % 3
    score = partial(adjusted_h_score, labels=labels, shrinkage=bounds.ge)
    rotated = float(score(features @ rotation))
    assert rotated == pytest.approx(float(score(features)), rel=0.05)


def test_only_classes_with_images_count() -> None:
    features, labels = problem(30, 5, 3)

    assert float(h_score(features, labels)) == float(h_score(features, 100 * labels - 50))
    assert class_moments(features, 100 * labels).num_classes == 3


def test_a_class_of_one_image_is_scored() -> None:
    features, labels = problem(30, 5, 2)
    labels[7] = 2

    assert float(h_score(features, labels)) == pytest.approx(oracle_h(features, labels), rel=1e-8)
    score, gradient = adjusted_h_score_and_gradient(features, labels, shrinkage=RHO)
    assert score == pytest.approx(oracle_adjusted(features, labels, RHO), rel=1e-8)
    assert gradient.isfinite().all()


def test_one_class_scores_nothing() -> None:
    features, _ = problem(30, 5, 2)

    assert float(h_score(features, torch.zeros(30, dtype=torch.int64))) == pytest.approx(
        0, abs=1e-9
    )


def test_one_class_an_image_scores_everything_and_means_nothing() -> None:
    features, labels = problem(10, 20, 10)

    assert float(h_score(features, labels)) == pytest.approx(9, rel=1e-8)
    score, gradient = adjusted_h_score_and_gradient(features, labels, shrinkage=RHO)
    assert score == pytest.approx(0, abs=1e-9)
    assert gradient.abs().max() < 1e-9


@pytest.mark.parametrize("spoil", ["repeated rows", "repeated columns", "a constant column"])
def test_singular_covariances_are_scored(spoil: str) -> None:
    features, labels = problem(60, 10, 3)
    if spoil == "repeated rows":
        features, labels = features[:5].repeat(12, 1), labels[:5].repeat(12)
    elif spoil == "repeated columns":
        features = torch.cat((features, features[:, :4]), dim=1)
    else:
        features[:, 3] = 0.1

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain = float(h_score(features, labels))
        score, gradient = adjusted_h_score_and_gradient(features, labels, shrinkage=RHO)

    assert plain == pytest.approx(oracle_h(features, labels), rel=1e-7)
    assert score == pytest.approx(oracle_adjusted(features, labels, RHO), rel=1e-8)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("shape", [(40, 10, 3), (8, 10, 3), (4, 4, 2)])
def test_directions_without_variance_count_for_nothing(shape: tuple[int, int, int]) -> None:
    """Three directions are varied; the rounding in the others must not be taken for more."""
    low, labels = problem(shape[0], 3, shape[2])
    spread = torch.from_numpy(np.random.default_rng(1).standard_normal((3, shape[1])))

    assert float(h_score(low @ spread, labels)) == pytest.approx(oracle_h(low, labels), rel=1e-7)


def test_one_picture_in_two_classes_keeps_few_images_from_being_told_apart() -> None:
    """Fewer images than features otherwise score C - 1, whatever they show."""
    features, labels = problem(12, 20, 3)
    assert float(h_score(features, labels)) == pytest.approx(2, rel=1e-12)
    features[1] = features[0]
    assert labels[1] != labels[0]

    score = float(h_score(features, labels))

    assert score < 1.9
    assert score == pytest.approx(oracle_h(features, labels), rel=1e-7)


@pytest.mark.parametrize("shape", [(4, 4, 2), (6, 9, 3), (50, 8, 3)])
def test_features_far_from_zero_are_scored_by_their_spread(shape: tuple[int, int, int]) -> None:
    """Where the rounding of their mean is as large as that of a direction of variance."""
    features, labels = problem(*shape)

    score = float(h_score(features, labels))
    far = (features + 2.0**24) - 2.0**24  # the digits that are left so far out

    assert float(h_score(features + 2.0**24, labels)) == pytest.approx(
        float(h_score(far, labels)), rel=1e-6
    )
    assert float(h_score(far, labels)) == pytest.approx(score, rel=1e-5)


Score = Callable[[Tensor, Tensor], object]
SCORES: list[Score] = [
    h_score,
    lambda f, y: adjusted_h_score(f, y, shrinkage=RHO),
    lambda f, y: adjusted_h_score_and_gradient(f, y, shrinkage=RHO),
]


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("value", [0.0, 1.0, -0.1, 1e30])
def test_constant_features_have_no_score(score: Score, value: float) -> None:
    with pytest.raises(DegenerateFeaturesError, match="all 4 features are constant over 30 images"):
        score(torch.full((30, 4), value), torch.arange(30) % 3)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite_are_refused(score: Score, value: float) -> None:
    features, labels = problem(30, 4, 3)
    features[17, 2] = value

    with pytest.raises(NonFiniteError, match="NaN or infinite"):
        score(features, labels)


@pytest.mark.parametrize("score", SCORES)
def test_shapes_that_do_not_fit_are_refused(score: Score) -> None:
    features, labels = problem(30, 4, 3)

    for wrong in ((features, labels[:29]), (features[0], labels), (features, labels[:, None])):
        with pytest.raises(ShapeError, match=r"expected \(N, D\) and \(N,\)"):
            score(*wrong)
    with pytest.raises(DegenerateFeaturesError, match="1 image"):
        score(features[:1], labels[:1])
    with pytest.raises(DegenerateFeaturesError, match="0 image"):
        score(features[:0], labels[:0])


def test_float32_features_are_scored_in_float64() -> None:
    features, labels = problem(60, 10, 3)
    features = features.float()

    assert h_score(features, labels).dtype == torch.float64
    assert float(h_score(features, labels)) == pytest.approx(oracle_h(features, labels), rel=1e-8)


def test_cholesky_adds_a_jitter_with_a_warning_and_gives_up_with_a_named_error() -> None:
    singular = torch.diag(torch.tensor([1.0, 2.0, -1e-9], dtype=torch.float64))

    with pytest.warns(UserWarning, match="covariance is singular; adding 1e-(12|10|08) of"):
        factor = cholesky(singular)
    torch.testing.assert_close(factor @ factor.T, singular, atol=1e-5, rtol=0)

    with (
        pytest.warns(UserWarning, match="covariance is singular"),
        pytest.raises(DegenerateFeaturesError, match=r"\(2 features\) is not positive definite"),
    ):
        cholesky(torch.diag(torch.tensor([1.0, -1.0], dtype=torch.float64)))
