"""The composite's objective against a float64 oracle, and the ascent on sources with a plan."""

import dataclasses
from collections.abc import Callable
from typing import cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ensemble.composite_objective import (
    FIRST_RADIUS,
    CompositeObjective,
    CompositePoint,
    CompositeSolution,
    move_along,
    nearest_on_simplex,
    refine_weights,
)
from ensemble.composition import compose
from ensemble.errors import FitStoppedError, ShapeError
from ensemble.features import extract_features
from ensemble.gradient_variance import GradientVariancePenalty
from ensemble.hscore import adjusted_h_score
from ensemble.prompt_tuning import LabelledPixels
from ensemble.prompted_vit import PromptedViT

RHO = 0.05
ToyTask = Callable[..., LabelledPixels]
MakePrompts = Callable[..., list[Tensor]]
quick = settings(deadline=None, max_examples=50, derandomize=True)


def on_simplex(num_sources: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(num_sources, dtype=torch.float64, generator=generator) + 0.05
    return weights / weights.sum()


def some_penalty(num_sources: int) -> GradientVariancePenalty:
    return GradientVariancePenalty(
        torch.rand(num_sources, 9, generator=torch.Generator().manual_seed(5))
    )


@pytest.fixture
def objective(vit: PromptedViT, toy_task: ToyTask, make_prompts: MakePrompts) -> CompositeObjective:
    """Four random deep sources on 40 images, with a penalty."""
    prompts = torch.stack(make_prompts(4))
    return CompositeObjective(vit, prompts, toy_task(40), RHO, some_penalty(4), 0.02, 16)


def features_in_float64(vit: PromptedViT, pixels: Tensor, prompt: Tensor) -> Tensor:
    """What `vit` computes, without its rounding of the features to float32."""
    per_image = prompt.expand(len(pixels), *prompt.shape)
    tokens = vit._prompted_blocks(vit.embed(pixels), per_image)
    return vit.vit.forward_head(vit.vit.norm(tokens), pre_logits=True)


def value_in_float64(objective: CompositeObjective, vit: PromptedViT, weights: Tensor) -> float:
    """J as it is written, in float64 throughout; `vit` is the backbone in float64."""
    composite = torch.einsum("m,mlpd->lpd", weights, objective.prompts.double())
    with torch.no_grad():
        features = features_in_float64(vit, objective.images.pixels, composite)
    score = float(adjusted_h_score(features, objective.images.labels, shrinkage=RHO))
    if objective.penalty is None:
        return score
    return score - objective.penalty_weight * float(objective.penalty(weights))


@pytest.mark.parametrize("num_layers", [1, 3])
@pytest.mark.parametrize(("precision", "tolerance"), [("float64", 1e-6), ("float32", 1e-5)])
def test_the_gradient_is_that_of_finite_differences(
    objective: CompositeObjective,
    make_vit: Callable[[], PromptedViT],
    make_prompts: MakePrompts,
    precision: str,
    tolerance: float,
    num_layers: int,
) -> None:
    exact = make_vit().double()
    objective = dataclasses.replace(
        objective,
        vit=exact if precision == "float64" else objective.vit,
        prompts=torch.stack(make_prompts(4, num_layers=num_layers)),
    )
    weights, step = on_simplex(4), 1e-4

    point = objective.evaluate(weights)
    gradient = objective.gradient(point)

    for j, direction in enumerate(torch.eye(4, dtype=torch.float64)):
        up, down = (
            value_in_float64(objective, exact, weights + sign * step * direction)
            for sign in (1, -1)
        )
        expected = (up - down) / (2 * step)
        assert float(gradient[j]) == pytest.approx(expected, rel=tolerance, abs=tolerance)
    assert point.objective == pytest.approx(
        value_in_float64(objective, exact, weights), rel=tolerance
    )
    assert gradient.dtype == torch.float64


@pytest.mark.parametrize("batch_size", [1, 7, 39])
def test_batches_give_the_gradient_over_all_images_at_once(
    objective: CompositeObjective, batch_size: int
) -> None:
    weights = on_simplex(4)
    leaf = compose(objective.prompts, weights).requires_grad_()
    features = objective.vit(objective.images.pixels, leaf)
    score = adjusted_h_score(features, objective.images.labels, shrinkage=RHO)
    (by_prompt,) = torch.autograd.grad(score, leaf)
    expected = torch.einsum("lpd,mlpd->m", by_prompt.double(), objective.prompts.double())

    batched = dataclasses.replace(objective, batch_size=batch_size, penalty=None)
    gradient = batched.gradient(batched.evaluate(weights))

    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-5)


def test_the_parts_of_the_objective_add_up(objective: CompositeObjective) -> None:
    weights = on_simplex(4)

    point = objective.evaluate(weights)

    (features,) = extract_features(
        objective.vit,
        objective.images.pixels,
        [compose(objective.prompts, weights)],
        batch_size=16,
    )
    score = float(adjusted_h_score(features, objective.images.labels, shrinkage=RHO))
    assert objective.penalty is not None
    penalty = float(objective.penalty(weights))
    assert torch.equal(point.features, features)
    assert point.h_score_adjusted == pytest.approx(score, rel=1e-9)
    assert point.gradient_penalty == pytest.approx(penalty, rel=1e-12)
    assert point.objective == pytest.approx(score - 0.02 * penalty, rel=1e-9)


def test_at_a_vertex_the_composite_is_the_source(objective: CompositeObjective) -> None:
    vertex = torch.tensor([0, 0, 1, 0], dtype=torch.float64)
    (features,) = extract_features(
        objective.vit, objective.images.pixels, [objective.prompts[2]], batch_size=16
    )
    refused = dataclasses.replace(objective, should_stop=lambda: True)

    known = refused.evaluate(vertex, features)  # asks for no forward pass

    assert known.objective == objective.evaluate(vertex).objective


@pytest.mark.parametrize("penalty_weight", [0.0, 0.02, 1.0])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_objective_never_falls_and_the_weights_stay_on_the_simplex(
    objective: CompositeObjective, seed: int, penalty_weight: float
) -> None:
    objective = dataclasses.replace(objective, penalty_weight=penalty_weight)
    start = objective.evaluate(on_simplex(4, seed))
    reports: list[tuple[int, int, float]] = []

    found = refine_weights(objective, start, steps=4, on_step=lambda *r: reports.append(r))

    assert found.num_accepted >= 1
    assert start.objective < found.objective
    assert list(found.curve) == sorted(found.curve)
    assert (found.curve[0], found.curve[-1]) == (start.objective, found.objective)
    assert found.weights.min() >= 0
    assert float(found.weights.sum()) == pytest.approx(1, abs=1e-12)
    again = objective.evaluate(found.weights)
    assert torch.equal(again.features, found.features)
    assert again.objective == found.objective
    assert reports[-1] == (found.num_gradients, 4, found.objective)
    assert [step for step, _, _ in reports] == list(range(1, found.num_gradients + 1))


@pytest.mark.parametrize("start", [[1.0, 0.0, 0.0], [0.2, 0.6, 0.2], [0.0, 0.0, 1.0]])
def test_it_finds_the_mixture_in_which_disturbances_cancel(
    vit: PromptedViT, toy_task: ToyTask, trained_source: Tensor, start: list[float]
) -> None:
    """The trained prompt, once with a disturbance added and once with it taken away."""
    generator = torch.Generator().manual_seed(3)
    disturbance = 2 * torch.randn(trained_source.shape, generator=generator)
    unrelated = 2 * torch.randn(trained_source.shape, generator=generator)
    prompts = torch.stack((trained_source + disturbance, trained_source - disturbance, unrelated))
    objective = CompositeObjective(vit, prompts, toy_task(160), RHO)
    planted = objective.evaluate(torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64))
    begun = objective.evaluate(torch.tensor(start, dtype=torch.float64))
    assert begun.objective < 0.8 * planted.objective

    found = refine_weights(objective, begun, steps=8)

    assert found.objective > 0.95 * planted.objective
    assert (found.weights - planted.weights).abs().max() < 0.15


def test_a_heavy_penalty_leads_to_where_it_is_smallest(objective: CompositeObjective) -> None:
    same = GradientVariancePenalty(torch.ones(4, 3))  # smallest at equal weights
    objective = dataclasses.replace(objective, penalty=same, penalty_weight=1e4)

    found = refine_weights(objective, objective.evaluate(on_simplex(4)), steps=6)

    assert found.gradient_penalty < 1e-2
    torch.testing.assert_close(
        found.weights, torch.full((4,), 0.25, dtype=torch.float64), atol=0.02, rtol=0
    )


class Parabola:
    """J of two sources: 1 at `best`, the first one's weight, and lower by the distance squared."""

    def __init__(self, best: float) -> None:
        self.best = best
        self.tried: list[float] = []

    def evaluate(self, weights: Tensor) -> CompositePoint:
        self.tried.append(float(weights[0]))
        value = 1 - (float(weights[0]) - self.best) ** 2
        return CompositePoint(weights, torch.zeros(0), value, 0.0, value)

    def gradient(self, point: CompositePoint) -> Tensor:
        slope = -2 * (float(point.weights[0]) - self.best)
        return torch.tensor([slope, 0.0], dtype=torch.float64)

    def refined(self, start: float, steps: int) -> CompositeSolution:
        weights = torch.tensor([start, 1 - start], dtype=torch.float64)
        begun = self.evaluate(weights)
        self.tried.clear()
        return refine_weights(cast("CompositeObjective", self), begun, steps=steps)


def test_a_step_that_went_too_far_is_cut_back_to_the_top_of_the_parabola() -> None:
    objective = Parabola(best=0.55)

    found = objective.refined(0.5, steps=1)

    assert objective.tried == pytest.approx([0.5 + FIRST_RADIUS, 0.55])
    assert found.weights.tolist() == pytest.approx([0.55, 0.45])
    assert found.curve == pytest.approx((0.9975, 0.9975, 1.0))


def test_steps_that_gain_as_much_as_promised_become_longer() -> None:
    objective = Parabola(best=4.0)

    objective.refined(0.0, steps=2)

    assert objective.tried == pytest.approx([FIRST_RADIUS, 3 * FIRST_RADIUS])


def test_a_slope_that_promises_next_to_nothing_is_not_tried() -> None:
    objective = Parabola(best=0.5001)

    found = objective.refined(0.5, steps=3)

    assert objective.tried == []
    assert (found.num_gradients, found.num_accepted) == (1, 0)


def test_one_source_leaves_nothing_to_choose(objective: CompositeObjective) -> None:
    one = dataclasses.replace(objective, prompts=objective.prompts[:1], penalty=None)
    start = one.evaluate(torch.ones(1, dtype=torch.float64))

    found = refine_weights(one, start, steps=5)

    assert found.weights.tolist() == [1.0]
    assert found.objective == start.objective
    assert (found.num_gradients, found.num_accepted, found.curve) == (0, 0, (start.objective,))


def test_no_steps_change_nothing(objective: CompositeObjective) -> None:
    start = objective.evaluate(on_simplex(4))

    found = refine_weights(objective, start, steps=0)

    assert found.weights is start.weights
    assert (found.num_gradients, found.curve) == (0, (start.objective,))


def test_it_ends_early_where_the_weights_do_not_matter(objective: CompositeObjective) -> None:
    same = dataclasses.replace(
        objective, prompts=objective.prompts[:1].expand(4, -1, -1, -1), penalty=None
    )
    start = same.evaluate(on_simplex(4))

    found = refine_weights(same, start, steps=5)

    assert (found.num_gradients, found.num_accepted) == (1, 0)
    assert torch.equal(found.weights, start.weights)


def test_it_stops_between_two_batches_of_either_pass(objective: CompositeObjective) -> None:
    asked = 0

    def from_the_third_time_on() -> bool:
        nonlocal asked
        asked += 1
        return asked > 2

    stopping = dataclasses.replace(objective, should_stop=from_the_third_time_on)
    with pytest.raises(FitStoppedError, match="after 32 of 40"):
        stopping.evaluate(on_simplex(4))
    start, asked = objective.evaluate(on_simplex(4)), 0
    with pytest.raises(FitStoppedError, match="the gradients of 32 of 40 images"):
        refine_weights(stopping, start, steps=1)


def test_bfloat16_gives_the_gradient_to_its_precision(
    make_vit: Callable[[], PromptedViT], objective: CompositeObjective
) -> None:
    coarse = make_vit()
    coarse.autocast_dtype = torch.bfloat16
    objective = dataclasses.replace(objective, penalty=None)
    rounded = dataclasses.replace(objective, vit=coarse)
    weights = on_simplex(4)

    exact = objective.gradient(objective.evaluate(weights))
    gradient = rounded.gradient(rounded.evaluate(weights))

    assert float((gradient - exact).norm() / exact.norm()) < 0.1
    assert not torch.equal(gradient, exact)


def test_weights_that_do_not_fit_the_sources_are_refused(objective: CompositeObjective) -> None:
    with pytest.raises(ShapeError, match=r"weights \(3,\)"):
        objective.evaluate(on_simplex(3))


points = st.lists(st.floats(-5, 5), min_size=1, max_size=8).map(
    lambda x: torch.tensor(x, dtype=torch.float64)
)


@quick
@given(points)
def test_the_nearest_point_of_the_simplex_meets_the_optimality_conditions(point: Tensor) -> None:
    nearest = nearest_on_simplex(point)

    assert nearest.min() >= 0
    assert float(nearest.sum()) == pytest.approx(1, abs=1e-12)
    # Moved by the same amount where positive, by at least as much less where 0.
    moved = point - nearest
    shift = moved[nearest > 0].mean()
    assert float((moved[nearest > 0] - shift).abs().max()) < 1e-9
    assert bool((moved[nearest == 0] <= shift + 1e-9).all())


@quick
@given(points, st.floats(0.01, 1.0), st.floats(-9, 9), st.integers(0, 2**31))
def test_a_move_is_as_far_as_the_radius_whatever_the_unit_of_the_gradient(
    gradient: Tensor, radius: float, exponent: float, seed: int
) -> None:
    start = on_simplex(len(gradient), seed)

    end = move_along(start, gradient, radius)
    rescaled = move_along(start, 10**exponent * gradient + 3, radius)

    assert end.min() >= 0
    assert float(end.sum()) == pytest.approx(1, abs=1e-12)
    assert float((end - start).abs().sum()) / 2 <= radius + 1e-9
    assert float(gradient @ (end - start)) >= -1e-12
    if float(gradient.max() - gradient.min()) > 0.1 * 10**-exponent and exponent > -3:
        torch.testing.assert_close(rescaled, end, rtol=0, atol=1e-4)


def test_a_move_goes_the_whole_way_or_to_the_best_vertex() -> None:
    start = torch.full((4,), 0.25, dtype=torch.float64)
    gradient = torch.tensor([1.0, 2.0, 4.0, 3.0], dtype=torch.float64)

    near = move_along(start, gradient, FIRST_RADIUS)
    far = move_along(start, gradient, 1.0)

    assert float((near - start).abs().sum()) / 2 == pytest.approx(FIRST_RADIUS, abs=1e-9)
    assert far.tolist() == [0.0, 0.0, 1.0, 0.0]
    assert torch.equal(move_along(start, torch.ones(4, dtype=torch.float64), 0.5), start)
