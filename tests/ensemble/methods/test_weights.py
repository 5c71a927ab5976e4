from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from ensemble.errors import FitStoppedError
from ensemble.fit_session import FitSession
from ensemble.gradient_variance import GradientVariancePenalty
from ensemble.hscore import adjusted_h_score
from ensemble.methods.weights import REFINEMENT_STEPS, learn_weights, refine_on_composite
from ensemble.options import FitOptions
from ensemble.simplex import solve_weights

MakeSession = Callable[..., FitSession]
OPTIONS = FitOptions(penalty_weight=0.02, shrinkage=0.1)
UNIFORM = torch.full((5,), 0.2, dtype=torch.float64)


@pytest.fixture
def penalty() -> GradientVariancePenalty:
    return GradientVariancePenalty(torch.rand(5, 9, generator=torch.Generator().manual_seed(5)))


@dataclass
class Told:
    """What was reported of weights, and everything else."""

    steps: list[tuple[str, int, int]] = field(default_factory=list)
    weights: list[object] = field(default_factory=list)

    def __call__(
        self,
        stage: str,
        step: int,
        total: int,
        *,
        weights: object = None,
        objective: float | None = None,
    ) -> None:
        self.steps.append((stage, step, total))
        if objective is not None:
            self.weights.append(weights)


def test_weights_are_those_of_the_solver_on_the_training_images(
    make_session: MakeSession, penalty: GradientVariancePenalty
) -> None:
    told = Told()
    fit = make_session(replace(OPTIONS, penalty_weight=2.0), progress=told, seed=3)
    features = fit.features_of("features", list(fit.sources.stored))
    train = torch.stack(features)[:, fit.train_rows]
    for f in features:
        f[fit.validation_rows] = torch.nan

    solution = learn_weights(fit, features, penalty)

    expected = solve_weights(
        train, fit.train.labels, shrinkage=0.1, penalty=penalty, penalty_weight=2.0, seed=3
    )
    assert torch.equal(solution.weights, expected.weights)
    assert solution.curve == expected.curve
    assert told.steps[-2:] == [("weights", 0, 1), ("weights", 1, 1)]
    assert told.weights == [solution.weights.tolist()]
    free = learn_weights(fit, features, None, stage="tried", announce=False)
    assert free.gradient_penalty == 0
    assert not torch.allclose(free.weights, solution.weights, atol=1e-3)
    assert told.steps[-1] == ("tried", 1, 1)
    assert len(told.weights) == 1


def objective(fit: FitSession, weights: Tensor, penalty: GradientVariancePenalty) -> float:
    """J from its definition, with the composite added up one source after another."""
    composite = torch.zeros(3, 4, 32, dtype=torch.float64)
    for weight, prompt in zip(weights, fit.sources.aligned, strict=True):
        composite += weight * prompt.double()
    features = torch.cat(
        [fit.vit(batch, composite.float()) for batch in fit.train.pixels.split(32)]
    )
    score = adjusted_h_score(features, fit.train.labels, shrinkage=0.1)
    return float(score) - 0.02 * float(penalty(weights))


@pytest.mark.parametrize("corner", [None, 2])
def test_refining_never_lowers_the_objective_of_the_composite(
    make_session: MakeSession,
    sources: list[Tensor],
    penalty: GradientVariancePenalty,
    corner: int | None,
) -> None:
    """From the best of the weights given and of every source alone; two are best together."""
    told = Told()
    known, off = sources[1], 0.6 * sources[0]
    mixed = [known + off, *sources[2:], known - off]
    fit = make_session(OPTIONS, sources=mixed, progress=told)
    features = fit.features_of("features", list(fit.sources.stored))
    start = UNIFORM if corner is None else torch.eye(5, dtype=torch.float64)[corner]

    found = refine_on_composite(fit, features, start, penalty)

    corners = [objective(fit, vertex, penalty) for vertex in torch.eye(5, dtype=torch.float64)]
    assert found.curve[0] == pytest.approx(
        max(objective(fit, start, penalty), *corners), rel=1e-3, abs=1e-4
    )
    assert found.curve[-1] == pytest.approx(objective(fit, found.weights, penalty), abs=1e-4)
    assert found.curve[-1] > found.curve[0] + 0.005
    assert all(a <= b for a, b in pairwise(found.curve))
    assert found.weights.min() >= 0
    assert float(found.weights.sum()) == pytest.approx(1)
    refinement = [report for report in told.steps if report[0] == "refinement"]
    assert refinement[0] == ("refinement", 0, REFINEMENT_STEPS)
    assert refinement[-1] == ("refinement", REFINEMENT_STEPS, REFINEMENT_STEPS)
    assert told.weights == [found.weights.tolist()]


def test_refining_does_not_look_at_held_out_images(make_session: MakeSession) -> None:
    fit = make_session(OPTIONS)
    features = fit.features_of("features", list(fit.sources.stored))
    pixels, labels = fit.pixels.clone(), fit.labels.clone()
    pixels[fit.validation_rows] = 0
    labels[fit.validation_rows] = 0

    found = refine_on_composite(fit, features, UNIFORM, None)

    for f in features:
        f[fit.validation_rows] = torch.nan
    changed = replace(fit, pixels=pixels, labels=labels)
    other = refine_on_composite(changed, features, UNIFORM, None)
    assert torch.equal(found.weights, other.weights)
    assert not torch.equal(found.weights, UNIFORM)


def test_one_source_leaves_nothing_to_refine(make_session: MakeSession) -> None:
    fit = make_session(OPTIONS, sources=[torch.ones(3, 4, 32)])

    features = fit.features_of("features", list(fit.sources.stored))
    found = refine_on_composite(fit, features, torch.ones(1, dtype=torch.float64), None)

    assert found.weights.tolist() == [1]
    assert (len(found.curve), found.num_gradients) == (1, 0)


def test_both_can_be_stopped(make_session: MakeSession) -> None:
    fit = make_session(should_stop=lambda: True)

    with pytest.raises(FitStoppedError):
        learn_weights(fit, [torch.zeros(80, 32)] * 5, None)
    with pytest.raises(FitStoppedError):
        refine_on_composite(fit, [torch.zeros(80, 32)] * 5, UNIFORM, None)
