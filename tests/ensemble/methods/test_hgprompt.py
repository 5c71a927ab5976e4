import math
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from ensemble.candidates import Candidate, ranked
from ensemble.class_head import ClassHead, fit_class_head
from ensemble.composition import compose
from ensemble.features import extract_features
from ensemble.fit_session import FitSession
from ensemble.gradient_variance import GradientVariancePenalty
from ensemble.hscore import adjusted_h_score, h_score
from ensemble.leaderboard import standing
from ensemble.methods import hgprompt
from ensemble.methods.choice import choose, cross_fitted_log_loss
from ensemble.methods.findings import SourceScore
from ensemble.methods.hgprompt import (
    GRADIENT_IMAGES,
    _advice,  # pyright: ignore[reportPrivateUsage]
    _gradient_rows,  # pyright: ignore[reportPrivateUsage]
    draw_train_rows,
    fit_hgprompt,
)
from ensemble.options import FitOptions, Method
from ensemble.prompt_tuning import LabelledPixels
from ensemble.prompted_vit import PromptedViT
from ensemble.simplex import solve_weights

MakeSession = Callable[..., FitSession]
UNIFORM = torch.full((5,), 0.2, dtype=torch.float64)
EXACT = FitOptions(composition="exact", penalty_weight=0.02)


def features_under(fit: FitSession, prompt: Tensor) -> Tensor:
    return torch.cat([fit.vit(batch, prompt) for batch in fit.pixels.split(32)])


def by_source(fit: FitSession) -> Tensor:
    return torch.stack([features_under(fit, prompt) for prompt in fit.sources.stored]).double()


def image_gradients(fit: FitSession, weights: Tensor) -> Tensor:
    """Gradients (M, n, L P D) of n images' losses by each source's prompt, one at a time.

    The error of the loss is that of a head on the weighted feature sum that has not seen the image;
    what it passes on to source j is c_n.
    """
    summed = torch.einsum("m,mnd->nd", weights, by_source(fit))
    rows = fit.train_rows
    head = fit_class_head(summed[rows], fit.labels[rows], 2)
    predicted = dict(zip(rows.tolist(), head.held_out_logits, strict=True))
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(fit.seed))
    gradients: list[Tensor] = []
    for prompt in fit.sources.aligned:
        of_source: list[Tensor] = []
        for n in rows[order[:GRADIENT_IMAGES].sort().values].tolist():
            logits = predicted[n].clone().requires_grad_()
            loss = functional.cross_entropy(logits[None], fit.labels[n][None])
            (error,) = torch.autograd.grad(loss, logits)
            leaf = prompt.clone().requires_grad_()
            output = fit.vit(fit.pixels[n][None], leaf)[0].double() @ (error @ head.weight)
            (gradient,) = torch.autograd.grad(output, leaf)
            of_source.append(gradient.flatten().double())
        gradients.append(torch.stack(of_source))
    return torch.stack(gradients)


@pytest.mark.parametrize("refreshes", [1, 2])
def test_weights_and_cosines_follow_from_the_gradients_at_the_weights_before(
    make_session: MakeSession, refreshes: int
) -> None:
    options = FitOptions(penalty_weight=3.0, cotangent_refreshes=refreshes)
    fit = make_session(options)
    train = by_source(fit)[:, fit.train_rows]
    weights, gradients = UNIFORM, torch.zeros(0)
    for _ in range(refreshes):
        gradients = image_gradients(fit, weights)
        penalty = GradientVariancePenalty(gradients.var(1, correction=0))
        weights = solve_weights(
            train,
            fit.train.labels,
            shrinkage=options.shrinkage,
            penalty=penalty,
            penalty_weight=3.0,
            seed=0,
        ).weights
    means = gradients.mean(1)
    cosines = functional.normalize(means, dim=1) @ functional.normalize(means, dim=1).T

    found = fit_hgprompt(fit)

    assert found.diagnostics.gradient_cosine is not None
    torch.testing.assert_close(found.diagnostics.gradient_cosine, cosines, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found.weights, weights, rtol=1e-2, atol=1e-2)


def test_gradients_again_are_others(make_session: MakeSession) -> None:
    once, twice, thrice = (
        fit_hgprompt(make_session(FitOptions(penalty_weight=3.0, cotangent_refreshes=n)))
        for n in (1, 2, 3)
    )

    for one, other in ((once, twice), (twice, thrice)):
        first, second = one.diagnostics.gradient_cosine, other.diagnostics.gradient_cosine
        assert first is not None
        assert second is not None
        assert not torch.allclose(first, second, atol=1e-3)


def test_candidates_are_the_ensemble_and_every_simpler_choice(make_session: MakeSession) -> None:
    fit = make_session()

    found = fit_hgprompt(fit)

    vertices = torch.eye(5, dtype=torch.float64)
    expected = {("hgprompt", None): found.weights, ("mean", None): UNIFORM}
    expected |= {("single", i): vertex for i, vertex in enumerate(vertices)}
    candidates = {(c.standing.method, c.standing.source): c for c in found.candidates}
    plain = candidates.pop(("none", None))
    assert torch.equal(plain.features, torch.cat([fit.vit(b) for b in fit.pixels.split(32)]))
    assert candidates.keys() == expected.keys()
    for place, weights in expected.items():
        assert torch.equal(candidates[place].weights, weights)
        composite = compose(fit.sources.aligned, weights)
        assert torch.equal(candidates[place].prompt, composite)
        features = features_under(fit, composite)
        torch.testing.assert_close(candidates[place].features, features, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("options", [FitOptions(penalty_weight=0.02, shrinkage=0.2), EXACT])
def test_the_objective_is_told_at_the_weights_that_are_served(
    make_session: MakeSession, options: FitOptions
) -> None:
    fit = make_session(options)

    found = fit_hgprompt(fit)

    rows, labels = fit.train_rows, fit.train.labels
    summed = torch.einsum("m,mnd->nd", found.weights, by_source(fit))[rows]
    composite = features_under(fit, compose(fit.sources.aligned, found.weights))[rows]
    penalty = GradientVariancePenalty(image_gradients(fit, UNIFORM).var(1, correction=0))
    adjusted, of_composite = (
        float(adjusted_h_score(f, labels, shrinkage=options.shrinkage)) for f in (summed, composite)
    )
    expected = {
        "h_score": float(h_score(summed, labels)),
        "h_score_adjusted": adjusted,
        "gradient_penalty": float(penalty(found.weights)),
        "total": adjusted - 0.02 * float(penalty(found.weights)),
        "composite_h_score_adjusted": of_composite,
    }
    assert found.diagnostics.objective == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_the_exact_composition_goes_on_from_the_feature_sum(make_session: MakeSession) -> None:
    start = fit_hgprompt(make_session(FitOptions(penalty_weight=0.02)))
    fit = make_session(EXACT)

    found = fit_hgprompt(fit)

    assert start.diagnostics.objective is not None
    assert found.diagnostics.objective is not None
    before, after = (
        of["composite_h_score_adjusted"] - 0.02 * of["gradient_penalty"]
        for of in (start.diagnostics.objective, found.diagnostics.objective)
    )
    curve = found.diagnostics.composite_curve
    assert before - 1e-6 <= curve[0] < curve[-1]
    assert curve[-1] == pytest.approx(after, abs=1e-6)
    assert start.diagnostics.composite_curve == ()
    assert found.diagnostics.objective_curve == start.diagnostics.objective_curve
    (ensemble,) = [c for c in found.candidates if c.standing.method == "hgprompt"]
    assert torch.equal(ensemble.weights, found.weights)
    assert not torch.allclose(found.weights, start.weights, atol=0.01)


def test_the_gap_is_between_the_composite_and_the_feature_sum(make_session: MakeSession) -> None:
    fit = make_session(FitOptions(penalty_weight=3.0))

    found = fit_hgprompt(fit)

    weights, gap = found.weights, found.diagnostics.composition_gap
    assert gap is not None
    rows = draw_train_rows(fit, gap.num_images)
    features = by_source(fit)[:, rows]
    summed = torch.einsum("m,mnd->nd", weights, features)
    spread = sum(
        float(w) * float(((f - summed) ** 2).sum(1).mean())
        for w, f in zip(weights, features, strict=True)
    )
    for told, prompts in ((gap.aligned, fit.sources.aligned), (gap.unaligned, fit.sources.stored)):
        composite = features_under(fit, compose(prompts, weights))[rows]
        assert told == pytest.approx(
            float(((composite - summed) ** 2).sum(1).mean()) / spread, rel=1e-3
        )
    assert gap.aligned != gap.unaligned


@pytest.mark.parametrize("align", [True, False])
def test_the_gap_is_told_with_its_number_of_images(
    make_session: MakeSession, few: LabelledPixels, align: bool
) -> None:
    fit = make_session(FitOptions(penalty_weight=3.0, align=align), images=few)

    gap = fit_hgprompt(fit).diagnostics.composition_gap

    assert gap is not None
    assert gap.num_images == len(fit.train_rows) == 16
    assert math.isnan(gap.aligned) == (not align)


def test_the_gap_is_measured_on_images_of_all_classes(
    make_session: MakeSession, images: LabelledPixels
) -> None:
    """As an archive has them, class after class."""
    by_class = images.labels.argsort(stable=True)
    sorted_images = LabelledPixels(images.pixels[by_class], images.labels[by_class])
    fit = make_session(FitOptions(penalty_weight=3.0), images=sorted_images)
    looked_at: list[Tensor] = []

    def extract(vit: PromptedViT, pixels: Tensor, prompts: Any, **more: Any) -> list[Tensor]:
        looked_at.append(pixels)
        return extract_features(vit, pixels, prompts, **more)

    found = fit_hgprompt(replace(fit, extract=extract))

    gap = found.diagnostics.composition_gap
    assert gap is not None
    (pixels,) = (seen for seen in looked_at if len(seen) == gap.num_images)
    same = (fit.pixels[:, None] == pixels).flatten(2).all(2)  # (N, n)
    rows = same.any(1).nonzero().flatten()
    assert set(rows.tolist()) <= set(fit.train_rows.tolist())
    assert int(torch.bincount(fit.labels[rows], minlength=2).min()) >= gap.num_images // 4


def test_advice_is_given_where_a_simpler_choice_is_as_good(make_session: MakeSession) -> None:
    """All weight went to one source, so that source alone is as good."""
    found = fit_hgprompt(make_session(FitOptions(penalty_weight=0.0)))

    assert float(found.weights[1]) == pytest.approx(1)
    assert found.candidates[0].standing.method == "hgprompt"
    advice = found.diagnostics.advice
    assert advice is not None
    assert "the best single source scored 0.9" in advice
    assert "(difference -0.075 to +0.075 with 95 % confidence)" in advice


def test_no_prompt_is_served_where_every_prompt_predicts_worse(make_session: MakeSession) -> None:
    """It competes by log-loss, so it need not be better beyond chance."""
    generator = torch.Generator().manual_seed(5)
    harmful = [4 * torch.randn(3, 4, 32, generator=generator) for _ in range(3)]

    found = fit_hgprompt(make_session(sources=harmful))

    none = next(each for each in found.candidates if each.standing.method == "none")
    others = [each for each in found.candidates if each is not none]
    labels = make_session().labels
    assert found.chosen is none
    assert choose([others[0]], [none], labels) is others[0]


def test_four_compete_by_log_loss_one_of_them_the_source_of_the_highest_evidence(
    make_session: MakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    competed: list[list[tuple[Method, int | None]]] = []

    def spy(favoured: list[Candidate], *more: Any) -> Candidate:
        competed.append([(c.standing.method, c.standing.source) for c in favoured])
        return choose(favoured, *more)

    def scores(*_: object) -> tuple[SourceScore, ...]:
        evidence = (0.1, 0.2, 0.3, 0.9, 0.4)
        return tuple(SourceScore(1 - each, 1 - each, each) for each in evidence)

    monkeypatch.setattr(hgprompt, "choose", spy)
    monkeypatch.setattr(hgprompt, "score_sources", scores)

    fit_hgprompt(make_session())

    assert competed == [[("hgprompt", None), ("none", None), ("mean", None), ("single", 3)]]


def test_the_candidate_that_was_chosen_is_served_whoever_is_best_held_out(
    make_session: MakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    def worst(_favoured: object, candidates: list[Candidate], _labels: Tensor) -> Candidate:
        return ranked(candidates)[-1]

    monkeypatch.setattr(hgprompt, "choose", worst)

    found = fit_hgprompt(make_session())

    assert found.chosen is found.candidates[-1]


def test_what_was_chosen_is_served_tuned_where_that_is_better(
    make_session: MakeSession, sources: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A damaged source is repaired by tuning."""

    def learned(favoured: list[Candidate], *_: object) -> Candidate:
        return favoured[0]

    monkeypatch.setattr(hgprompt, "choose", learned)
    noise = torch.randn(sources[1].shape, generator=torch.Generator().manual_seed(0))
    options = FitOptions(tuning_epochs=4, prompt_learning_rate=0.05)

    found = fit_hgprompt(make_session(options, sources=[sources[1] + 0.6 * noise]))

    assert found.chosen is not None
    assert (found.chosen.standing.method, found.chosen.standing.tuned) == ("hgprompt", True)
    assert found.chosen is found.candidates[0]


def test_the_seed_draws_the_images_of_the_gradients(make_session: MakeSession) -> None:
    fit = make_session()

    one, same, other = (_gradient_rows(replace(fit, seed=seed)) for seed in (1, 1, 2))

    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_gradients_are_of_images_whose_class_has_another_one(
    make_session: MakeSession,
) -> None:
    """A head that has not seen the only one of a class says nothing of its error."""
    fit = make_session()
    labels = torch.arange(80) + 10  # one image of each class
    labels[fit.train_rows[:6]] = 0

    rows = _gradient_rows(replace(fit, labels=labels))

    assert rows.tolist() == fit.train_rows[:6].tolist()


def erring(fit: FitSession, method: Method, wrong: Tensor, *, surely: bool = True) -> Candidate:
    """A candidate that is right but for the rows `wrong`, of which it may be hardly convinced."""
    logits = functional.one_hot(fit.labels, 2).double()
    logits[wrong] = logits[wrong].flip(1) * (1.0 if surely else 0.01)
    head = ClassHead(torch.zeros(2, 1), torch.zeros(2), 0.1, 1.0, logits)
    place = standing(method, None, logits[fit.validation_rows], fit.labels[fit.validation_rows])
    empty = torch.zeros(0)
    return Candidate(place, empty, empty, empty, head)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"hgprompt": 1, "single": 2, "none": 3}, None),
        ({"hgprompt": 2, "single": 2, "none": 3}, "the best single source scored 0.917 and the"),
        (
            {"hgprompt": 2, "single": 3, "none": 1},
            "no prompt scored 0.958 and the learned ensemble",
        ),
        ({"hgprompt": 2, "mean": 0, "none": 1}, r"the uniform mean scored 1.000 .* ensemble 0.917"),
    ],
)
def test_advice_names_the_best_simple_choice(
    make_session: MakeSession, wrong: dict[Method, int], words: str | None
) -> None:
    """`wrong`: how many of 24 held-out images each method gets wrong."""
    fit = make_session()
    rows = fit.validation_rows
    learned, *simple = (erring(fit, method, rows[:count]) for method, count in wrong.items())
    best = ranked(simple)[0]
    kept, left = (_advice(fit, learned, best, chosen, [chosen]) for chosen in (learned, best))

    assert re.search(r"has the lower cross-fitted log-loss, so it was chosen\.", left or "")
    if words is None:
        assert kept is None
        assert "do not beat" not in (left or "")
    else:
        assert re.search(words + ".* so the learned ensemble was kept", kept or "")
        assert re.search(words + ".* do not beat the simpler choice", left or "")


def test_advice_compares_the_ensemble_with_what_is_served_in_its_place(
    make_session: MakeSession,
) -> None:
    fit = make_session()
    rows = fit.validation_rows
    learned = erring(fit, "hgprompt", rows[:1])
    single, none = erring(fit, "single", rows[:2]), erring(fit, "none", rows[:5])

    advice = _advice(fit, learned, single, none, [learned, none])

    assert advice is not None
    assert advice.startswith(
        "On 24 held-out images no prompt scored 0.792 and the learned ensemble 0.958 "
        "(difference -0.312 to +0.004 with 95 % confidence). "
    )


def test_advice_tells_why_another_than_that_of_the_lowest_log_loss_is_served(
    make_session: MakeSession,
) -> None:
    fit = make_session()
    learned = erring(fit, "hgprompt", torch.arange(6, 16))
    mean = erring(fit, "mean", torch.arange(14), surely=False)
    none = erring(fit, "none", torch.arange(8))
    favoured = [learned, mean]
    assert choose(favoured, [none], fit.labels) is none
    assert cross_fitted_log_loss(none, fit.labels) > cross_fitted_log_loss(mean, fit.labels)

    advice = _advice(fit, learned, none, none, favoured)

    assert advice is not None
    assert "has the lower cross-fitted log-loss" not in advice
    assert "no prompt is better beyond chance than the uniform mean" in advice

    # The same if it is the learned ensemble that is better beyond chance.
    advice = _advice(fit, learned, none, learned, [mean])
    assert advice is not None
    assert "the learned ensemble is better beyond chance than the uniform mean" in advice
