"""LogME against the marginal likelihood written out, the paper's own iteration, and its limits."""

import math

import numpy as np
import pytest
import torch
from numpy.linalg import cholesky
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.stats import Covariance, multivariate_normal
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ensemble.errors import (
    DegenerateFeaturesError,
    FitStoppedError,
    NonFiniteError,
    ShapeError,
)
from ensemble.logme import log_maximum_evidence


def problem(
    num_images: int,
    num_features: int,
    num_classes: int,
    *,
    signal: float = 1.0,
    offset: float = 0.0,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Features (N, D) around class means; every class has images."""
    rng = np.random.default_rng(seed)
    labels = np.arange(num_images) % num_classes
    means = signal * rng.standard_normal((num_classes, num_features))
    noise = rng.standard_normal((num_images, num_features))
    return torch.from_numpy(offset + noise + means[labels]), torch.from_numpy(labels)


def oracle(features: Tensor, labels: Tensor) -> float:
    """max log N(y; 0, I/beta + FF'/alpha) / N by Nelder-Mead from many starts, averaged."""
    F = features.double().numpy()
    best: list[float] = []
    for label in labels.unique():
        y = (labels == label).double().numpy()

        def negative(logs: NDArray[np.float64], y: NDArray[np.float64] = y) -> float:
            weight_variance, noise_variance = np.exp(logs)
            cov = noise_variance * np.eye(len(y)) + weight_variance * F @ F.T
            distribution = multivariate_normal(cov=Covariance.from_cholesky(cholesky(cov)))
            return -float(distribution.logpdf(y)) / len(y)

        starts = [(-9.0, -3.0), (-5.0, -7.0), (-3.0, -2.0), (-1.0, -9.0)]
        found = [
            minimize(negative, start, method="Nelder-Mead", bounds=[(-18, 6), (-20, 2)]).fun
            for start in starts
        ]
        best.append(-min(found))
    return float(np.mean(best))


def iteration_of_the_paper(features: Tensor, labels: Tensor) -> float:
    """Their fixed point from alpha = beta = 1, through the evidence in terms of A and m."""
    F = features.double()
    N, D = F.shape
    values: list[float] = []
    for label in labels.unique():
        y = (labels == label).double()
        alpha = beta = 1.0
        for _ in range(300):
            A = alpha * torch.eye(D, dtype=F.dtype) + beta * F.T @ F
            m = beta * torch.linalg.solve(A, F.T @ y)
            gamma = float((beta * torch.linalg.solve(A, F.T @ F)).trace())
            alpha = gamma / float(m @ m)
            beta = (N - gamma) / float(((F @ m - y) ** 2).sum())
        A = alpha * torch.eye(D, dtype=F.dtype) + beta * F.T @ F
        m = beta * torch.linalg.solve(A, F.T @ y)
        fit = beta * float(((F @ m - y) ** 2).sum()) + alpha * float(m @ m)
        terms = N * math.log(beta) + D * math.log(alpha) - N * math.log(2 * math.pi) - fit
        values.append((terms - float(torch.linalg.slogdet(A).logabsdet)) / 2 / N)
    return float(np.mean(values))


@pytest.mark.parametrize("offset", [0.0, 3.0])
@pytest.mark.parametrize("signal", [0.0, 1.0])
@pytest.mark.parametrize("shape", [(30, 5, 2), (24, 20, 3), (16, 32, 3)])
def test_it_is_the_largest_marginal_likelihood(
    shape: tuple[int, int, int], signal: float, offset: float
) -> None:
    features, labels = problem(*shape, signal=signal, offset=offset)

    value = log_maximum_evidence(features, labels)

    assert value == pytest.approx(oracle(features, labels), abs=1e-4)


@pytest.mark.parametrize("shape", [(60, 5, 3), (80, 30, 4)])
def test_it_is_where_the_iteration_of_the_paper_ends_if_there_is_one_maximum(
    shape: tuple[int, int, int],
) -> None:
    features, labels = problem(*shape)

    value = log_maximum_evidence(features, labels)

    assert value == pytest.approx(iteration_of_the_paper(features, labels), abs=1e-7)


def test_of_two_maxima_it_takes_the_higher() -> None:
    """Small features far from 0: from alpha = beta the iteration ends in the lower maximum."""
    features, labels = problem(30, 20, 3, signal=0.5, offset=30.0)

    value = log_maximum_evidence(features, labels)

    assert value == pytest.approx(iteration_of_the_paper(features, labels), abs=1e-4)
    assert value > iteration_of_the_paper(0.003 * features, labels) + 0.1
    assert value == pytest.approx(log_maximum_evidence(0.003 * features, labels), abs=1e-6)


@pytest.mark.parametrize("shape", [(50, 8, 4), (12, 30, 3)])
def test_scale_rotation_and_the_names_of_classes_do_not_matter(
    shape: tuple[int, int, int],
) -> None:
    features, labels = problem(*shape, offset=2.0)
    generator = torch.Generator().manual_seed(0)
    square = torch.randn(shape[1], shape[1], dtype=torch.float64, generator=generator)
    rotated = features @ torch.linalg.qr(square).Q
    names = torch.tensor([70, -3, 5, 1])

    value = log_maximum_evidence(features, labels)

    assert log_maximum_evidence(rotated, labels) == pytest.approx(value, abs=1e-6)
    assert log_maximum_evidence(1e5 * features, labels) == pytest.approx(value, abs=1e-6)
    assert log_maximum_evidence(-1e-5 * features, labels) == pytest.approx(value, abs=1e-6)
    assert log_maximum_evidence(features, names[labels]) == pytest.approx(value, abs=1e-12)
    order = torch.randperm(len(labels), generator=generator)
    assert log_maximum_evidence(features[order], labels[order]) == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("shape", [(60, 10, 3), (20, 40, 2)])
def test_the_better_the_features_tell_the_classes_apart_the_higher(
    shape: tuple[int, int, int],
) -> None:
    values = [log_maximum_evidence(*problem(*shape, signal=s)) for s in (0.0, 1.0, 4.0)]

    assert values[0] < values[1] < values[2]


def test_shuffled_labels_score_lower() -> None:
    features, labels = problem(60, 10, 3)
    generator = torch.Generator().manual_seed(0)

    shuffled = [
        log_maximum_evidence(features, labels[torch.randperm(60, generator=generator)])
        for _ in range(20)
    ]

    assert log_maximum_evidence(features, labels) > max(shuffled)


def test_features_of_no_use_score_as_if_there_were_none() -> None:
    """Labels orthogonal to the features: alpha grows without bound and y ~ N(0, I / beta)."""
    labels = torch.arange(40) % 2
    features = torch.zeros(40, 1, dtype=torch.float64)
    features[0], features[2] = 1.0, -1.0  # of the same class, hence orthogonal to both columns

    value = log_maximum_evidence(features, labels)

    assert value == pytest.approx(-0.5 * (math.log(2 * math.pi * 0.5) + 1), abs=1e-6)


def test_labels_that_the_features_spell_out_score_high_but_finitely() -> None:
    labels = torch.arange(40) % 4

    value = log_maximum_evidence(torch.eye(4)[labels], labels)

    assert 5 < value < 20


@pytest.mark.parametrize("num_features", [3, 30])
def test_one_class_has_a_finite_value(num_features: int) -> None:
    features, _ = problem(20, num_features, 1)

    assert math.isfinite(log_maximum_evidence(features, torch.zeros(20, dtype=torch.int64)))


def test_repeated_images_and_features_are_scored_as_the_oracle_does() -> None:
    features, labels = problem(10, 6, 2)
    features = torch.cat((features, features[:, :3]), dim=1).repeat(3, 1)
    labels = labels.repeat(3)

    assert log_maximum_evidence(features, labels) == pytest.approx(
        oracle(features, labels), abs=1e-4
    )


def test_the_search_of_a_class_costs_the_same_however_many_there_are() -> None:
    def products(num_classes: int) -> int:
        """Operations in matrix products, the decomposition of the same features not among them."""
        features, _ = problem(160, 6, 2)
        with FlopCounterMode(display=False) as counter:
            log_maximum_evidence(features, torch.arange(160) % num_classes)
        return counter.get_total_flops()

    assert products(80) < 6 * products(20)


def test_it_can_be_stopped_between_two_classes() -> None:
    asked: list[bool] = []

    def should_stop() -> bool:
        asked.append(len(asked) == 3)
        return asked[-1]

    with pytest.raises(FitStoppedError, match="after LogME of 3 of 7 classes"):
        log_maximum_evidence(*problem(40, 5, 7), should_stop)


def test_float32_features_are_scored_in_float64() -> None:
    features, labels = problem(60, 10, 3)

    assert log_maximum_evidence(features.float(), labels) == log_maximum_evidence(
        features.float().double(), labels
    )


def test_features_without_a_score_are_refused_by_name() -> None:
    features, labels = problem(30, 4, 3)

    with pytest.raises(DegenerateFeaturesError, match="all 4 features are constant over 30 images"):
        log_maximum_evidence(torch.full((30, 4), 0.1), labels)
    with pytest.raises(DegenerateFeaturesError, match="1 image"):
        log_maximum_evidence(features[:1], labels[:1])
    with pytest.raises(ShapeError, match=r"expected \(N, D\) and \(N,\)"):
        log_maximum_evidence(features, labels[:29])
    features[3, 1] = math.nan
    with pytest.raises(NonFiniteError, match="NaN or infinite"):
        log_maximum_evidence(features, labels)
