"""The solver against dense grids, and what it promises whatever the features are."""

import warnings
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from ensemble import simplex
from ensemble.errors import DegenerateFeaturesError, NonFiniteError, ShapeError
from ensemble.gradient_variance import GradientVariancePenalty
from ensemble.hscore import adjusted_h_score
from ensemble.simplex import WeightSolution, solve_weights

RHO = 0.05
quick = settings(deadline=None, max_examples=20, derandomize=True)


def planted(noises: list[float], *, num_images: int = 120, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Sources (M, N, D) that see the same signal under independent noise of given strengths.

    With equal signal the best sum weighs each source by about 1 / noise^2.
    """
    rng = np.random.default_rng(seed)
    labels = np.arange(num_images) % 3
    signal = rng.standard_normal((3, 6))[labels]
    features = [signal + noise * rng.standard_normal(signal.shape) for noise in noises]
    return torch.from_numpy(np.stack(features)), torch.from_numpy(labels)


def score(features: Tensor, labels: Tensor, weights: Tensor) -> float:
    weighted = torch.einsum("m,mnd->nd", weights.double(), features.double())
    return float(adjusted_h_score(weighted, labels, shrinkage=RHO))


def grid(num_sources: int, steps: int) -> list[Tensor]:
    """Every point of the simplex whose coordinates are multiples of 1 / steps."""
    if num_sources == 2:
        counts = [(i, steps - i) for i in range(steps + 1)]
    else:
        counts = [(i, j, steps - i - j) for i in range(steps + 1) for j in range(steps + 1 - i)]
    return [torch.tensor(c, dtype=torch.float64) / steps for c in counts]


def check_solution(
    solution: WeightSolution,
    features: Tensor,
    labels: Tensor,
    penalty: GradientVariancePenalty | None = None,
    penalty_weight: float = 0.0,
) -> None:
    """Feasible, told truly, and not worse than uniform or any vertex."""
    M = len(features)

    def objective(weights: Tensor) -> float:
        cost = 0.0 if penalty is None else penalty_weight * float(penalty(weights))
        return score(features, labels, weights) - cost

    assert solution.weights.shape == (M,)
    assert solution.weights.min() >= 0
    assert float(solution.weights.sum()) == pytest.approx(1, abs=1e-12)
    assert solution.objective == pytest.approx(objective(solution.weights), abs=1e-9)
    assert solution.h_score_adjusted == pytest.approx(
        score(features, labels, solution.weights), abs=1e-9
    )
    for simple in (torch.full((M,), 1 / M, dtype=torch.float64), *torch.eye(M)):
        assert solution.objective >= objective(simple) - 1e-9


@pytest.mark.parametrize("noises", [[1.0, 1.0], [1.0, 2.0], [0.5, 3.0], [1.5, 1.0, 2.0]])
def test_it_finds_the_planted_interior_optimum(noises: list[float]) -> None:
    features, labels = planted(noises)

    solution = solve_weights(features, labels, shrinkage=RHO)

    check_solution(solution, features, labels)
    points = grid(len(noises), 400 if len(noises) == 2 else 60)
    values = [score(features, labels, point) for point in points]
    best = int(np.argmax(values))
    assert solution.objective >= values[best] - 1e-4
    assert solution.objective > values[0] + 0.01  # not a vertex
    torch.testing.assert_close(solution.weights, points[best], atol=0.03, rtol=0)


def test_it_finds_a_vertex_where_the_other_source_is_noise() -> None:
    features, labels = planted([0.3, 0.3])
    features[1] = torch.randn(features[1].shape, generator=torch.Generator().manual_seed(0)) * 5

    solution = solve_weights(features, labels, shrinkage=RHO)

    check_solution(solution, features, labels)
    assert solution.weights[0] > 0.98


@quick
@given(
    st.integers(1, 5),
    st.integers(4, 24),
    st.integers(1, 12),
    st.integers(0, 2**31),
    st.sampled_from([0.0, 0.1, 10.0]),
)
def test_its_promises_hold_for_any_features(
    num_sources: int, num_images: int, num_features: int, seed: int, penalty_weight: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(num_sources, num_images, num_features, generator=generator)
    labels = torch.randint(0, 3, (num_images,), generator=generator)
    penalty = GradientVariancePenalty(torch.rand(num_sources, 7, generator=generator))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        solution = solve_weights(
            features,
            labels,
            shrinkage=RHO,
            penalty=penalty,
            penalty_weight=penalty_weight,
            seed=seed,
        )

    check_solution(solution, features, labels, penalty, penalty_weight)
    assert all(before <= after for before, after in pairwise(solution.curve))
    assert solution.curve[-1] == solution.objective


def test_every_evaluation_is_told() -> None:
    features, labels = planted([1.0, 2.0])
    told: list[tuple[int, float]] = []

    solution = solve_weights(
        features,
        labels,
        shrinkage=RHO,
        on_evaluation=lambda number, objective: told.append((number, objective)),
    )

    assert [number for number, _ in told] == list(range(1, len(told) + 1))
    assert tuple(objective for _, objective in told) == solution.curve


def test_the_same_seed_gives_the_same_weights() -> None:
    features, labels = planted([1.0, 2.0, 1.5], num_images=30)

    first, second = (solve_weights(features, labels, shrinkage=RHO, seed=3) for _ in range(2))

    assert torch.equal(first.weights, second.weights)
    assert first.curve == second.curve


def test_it_starts_from_the_middle_the_two_best_sources_and_a_point_that_the_seed_draws(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    features, labels = planted([1.0, 3.0, 0.5, 2.0], num_images=60)
    penalty = GradientVariancePenalty(torch.ones(4, 3))
    starts: list[tuple[list[float], tuple[float, ...]]] = []

    def spy(_problem: Any, start: NDArray[np.float64], stages: tuple[float, ...]) -> None:
        starts.append((start.tolist(), stages))

    monkeypatch.setattr(simplex, "_ascend", spy)
    for seed in (3, 3, 4):
        solve_weights(
            features, labels, shrinkage=RHO, penalty=penalty, penalty_weight=0.01, seed=seed
        )

    (middle, best, second, drawn, annealed), again, other = starts[:5], starts[5:10], starts[10:]
    assert middle == ([0.25] * 4, (1.0,))
    assert best == ([0.0, 0.0, 1.0, 0.0], (1.0,))
    assert second == ([1.0, 0.0, 0.0, 0.0], (1.0,))
    assert annealed == ([0.25] * 4, (0.0, 1.0))
    assert sum(drawn[0]) == pytest.approx(1)
    assert again == starts[:5]
    assert other[3][0] != drawn[0]


def test_permuting_the_sources_permutes_the_weights() -> None:
    features, labels = planted([1.0, 2.0, 1.5, 0.8])
    u = torch.rand(4, 50, generator=torch.Generator().manual_seed(0))
    order = torch.tensor([2, 0, 3, 1])

    def weights(order: Tensor) -> Tensor:
        penalty = GradientVariancePenalty(u[order])
        return solve_weights(
            features[order], labels, shrinkage=RHO, penalty=penalty, penalty_weight=0.01
        ).weights

    torch.testing.assert_close(weights(order), weights(torch.arange(4))[order], atol=0.02, rtol=0)


def test_one_source_has_all_the_weight() -> None:
    features, labels = planted([1.0])

    solution = solve_weights(features, labels, shrinkage=RHO)

    assert solution.weights.tolist() == [1.0]
    assert len(solution.curve) == 1


def test_identical_sources_share_their_weight() -> None:
    features, labels = planted([1.0])

    solution = solve_weights(features.expand(4, -1, -1), labels, shrinkage=RHO)

    check_solution(solution, features.expand(4, -1, -1), labels)
    assert (
        solution.weights.tolist() == [0.25] * 4
    )  # nothing is better, so nothing else is preferred


def test_the_penalty_pulls_towards_equal_gradients() -> None:
    features, labels = planted([0.5, 2.0])
    penalty = GradientVariancePenalty(torch.ones(2, 5))

    weights = [
        float(
            solve_weights(
                features, labels, shrinkage=RHO, penalty=penalty, penalty_weight=strength
            ).weights[0]
        )
        for strength in (0.0, 0.05, 100.0)
    ]

    assert weights[0] > 0.8
    assert weights[0] > weights[1] > weights[2] > 0.49
    assert weights[2] == pytest.approx(0.5, abs=0.02)


def test_it_beats_a_dense_grid_with_a_penalty() -> None:
    features, labels = planted([1.0, 1.5, 0.8], num_images=60)
    penalty = GradientVariancePenalty(
        torch.tensor([[1.0, 4.0, 0.1], [0.2, 1.0, 3.0], [5.0, 0.5, 0.5]])
    )

    solution = solve_weights(features, labels, shrinkage=RHO, penalty=penalty, penalty_weight=0.3)

    check_solution(solution, features, labels, penalty, 0.3)
    best = max(
        score(features, labels, point) - 0.3 * float(penalty(point)) for point in grid(3, 60)
    )
    assert solution.objective >= best - 1e-3


@pytest.mark.parametrize("shrinkage", [1e-5, 1e-4, 0.99999])
def test_an_objective_that_is_small_throughout_is_maximised_as_well(shrinkage: float) -> None:
    """With N - 1 <= D the score is of the order of rho, and near rho = 1 of that of 1 - rho."""
    rng = np.random.default_rng(0)
    labels = torch.arange(24) % 4
    class_means, common = rng.standard_normal((4, 40)), rng.standard_normal((24, 40))
    noises = 0.7 * rng.standard_normal((3, 24, 40))
    features = torch.from_numpy(common + noises + 0.9 * class_means[labels])

    def objective(weights: Tensor) -> float:
        weighted = torch.einsum("m,mnd->nd", weights, features)
        return float(adjusted_h_score(weighted, labels, shrinkage=shrinkage))

    solution = solve_weights(features, labels, shrinkage=shrinkage)

    on_grid = [objective(point) for point in grid(3, 40)]
    assert max(map(abs, on_grid)) < 1e-3
    gain = max(on_grid) - objective(torch.full((3,), 1 / 3, dtype=torch.float64))
    assert solution.objective >= max(on_grid) - 0.01 * gain


def test_fewer_images_than_features_leave_a_usable_objective() -> None:
    """Where the plain score is C - 1 for all weights, the adjusted one finds the good source."""
    rng = np.random.default_rng(0)
    labels = torch.arange(18) % 3
    noise = torch.from_numpy(rng.standard_normal((2, 18, 40)))
    signal = torch.from_numpy(3 * rng.standard_normal((3, 40)))[labels]
    features = torch.stack((noise[0] + signal, 4 * noise[1]))

    solution = solve_weights(features, labels, shrinkage=RHO)

    assert solution.weights[0] > 0.9


@pytest.mark.parametrize("shape", [(0, 5, 2), (5, 2), (2, 2, 5, 2)])
def test_features_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match=r"expected \(M, N, D\) with M >= 1"):
        solve_weights(torch.zeros(shape), torch.zeros(5), shrinkage=RHO)


def test_degenerate_features_are_refused_by_name() -> None:
    features, labels = planted([1.0, 1.0])
    features[1] = 2.5

    with pytest.raises(DegenerateFeaturesError, match="all 6 features are constant"):
        solve_weights(features, labels, shrinkage=RHO)
    features[1, 3, 2] = float("nan")
    with pytest.raises(NonFiniteError):
        solve_weights(features, labels, shrinkage=RHO)
