from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from ensemble.candidates import Candidate
from ensemble.class_head import fit_class_head
from ensemble.composition import compose
from ensemble.fit_session import FitSession
from ensemble.gradient_variance import GradientVariancePenalty
from ensemble.methods import hgprompt
from ensemble.methods.ablations import run_ablations
from ensemble.methods.findings import Ablation, Findings
from ensemble.methods.h_ensemble import fit_h_ensemble
from ensemble.methods.hgprompt import fit_hgprompt
from ensemble.methods.tuning import tune_candidate
from ensemble.methods.weights import refine_on_composite
from ensemble.options import FitOptions

MakeSession = Callable[..., FitSession]
PENALTY, ALIGNMENT, COMPOSING, EXACT, SUMMED, TUNING = (
    "without the gradient penalty",
    "without alignment",
    "without composing",
    "weights of the exact objective",
    "weights of the feature sum",
    "with tuning",
)
OPTIONS = FitOptions(ablations=True, penalty_weight=3.0)


@pytest.fixture
def fit(make_session: MakeSession) -> FitSession:
    return make_session(OPTIONS)


@pytest.fixture
def found(fit: FitSession) -> Findings:
    return fit_hgprompt(fit)


def by_name(found: Findings) -> dict[str, Ablation]:
    return {ablation.name: ablation for ablation in found.diagnostics.ablations}


def correct(fit: FitSession, features: Tensor) -> Tensor:
    """Which held-out images a head classifies that was fitted on these features."""
    logits = fit_class_head(features, fit.labels, 2).held_out_logits[fit.validation_rows]
    return (logits.argmax(1) == fit.labels[fit.validation_rows]).double()


def features_under(fit: FitSession, prompt: Tensor) -> Tensor:
    return torch.cat([fit.vit(batch, prompt) for batch in fit.pixels.split(32)])


def test_each_is_the_ensemble_but_for_one_part(
    make_session: MakeSession, fit: FitSession, found: Findings
) -> None:
    exact = fit_hgprompt(make_session(replace(OPTIONS, composition="exact", ablations=False)))
    assert not torch.allclose(exact.weights, found.weights, atol=1e-4)
    weights, sources = found.weights, fit.sources
    free = fit_h_ensemble(fit).weights
    assert not torch.allclose(free, weights, atol=0.05)
    summed = torch.zeros(80, 32, dtype=torch.float64)
    for weight, prompt in zip(weights, sources.stored, strict=True):
        summed += weight * features_under(fit, prompt).double()
    expected = {
        PENALTY: (free, features_under(fit, compose(sources.aligned, free))),
        ALIGNMENT: (weights, features_under(fit, compose(sources.stored, weights))),
        EXACT: (exact.weights, features_under(fit, compose(sources.aligned, exact.weights))),
        COMPOSING: (weights, summed),
    }
    learned = correct(fit, features_under(fit, compose(sources.aligned, weights)))

    ablations = by_name(found)

    assert list(ablations) == list(expected)
    for name, (of_name, features) in expected.items():
        ablation, hits = ablations[name], correct(fit, features)
        torch.testing.assert_close(ablation.weights, of_name)
        assert ablation.standing.accuracy == pytest.approx(float(hits.mean()))
        assert ablation.difference == pytest.approx(float((hits - learned).mean()))
        low, high = ablation.difference_ci95
        assert low < ablation.difference < high
        assert (low + high) / 2 == pytest.approx(float((hits - learned).sum()) / (24 + 2))
    assert len({ablation.standing.log_loss for ablation in ablations.values()}) == 4


def test_none_of_them_can_be_chosen(
    make_session: MakeSession, fit: FitSession, found: Findings
) -> None:
    without = fit_hgprompt(make_session(FitOptions(penalty_weight=3.0)))

    assert without.diagnostics.ablations == ()
    assert [c.standing for c in found.candidates] == [c.standing for c in without.candidates]
    assert torch.equal(found.weights, without.weights)
    assert {"ablations", "ablation weights"} <= set(fit.timings_s)


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"align": False}, [PENALTY, EXACT, COMPOSING]),
        ({"penalty_weight": 0.0}, [ALIGNMENT, EXACT, COMPOSING]),
        ({"align": False, "penalty_weight": 0.0}, [EXACT, COMPOSING]),
    ],
)
def test_a_part_that_the_ensemble_lacks_has_no_row(
    make_session: MakeSession, found: Findings, changes: dict[str, Any], names: list[str]
) -> None:
    fit = make_session(replace(OPTIONS, **changes))

    ablations = by_name(fit_hgprompt(fit))

    assert list(ablations) == names
    assert ("ablation weights" in fit.timings_s) == (PENALTY in names)
    if changes == {"align": False}:
        torch.testing.assert_close(ablations[PENALTY].weights, by_name(found)[PENALTY].weights)


def test_the_penalty_is_left_out_of_the_refinement_too(make_session: MakeSession) -> None:
    fit = make_session(FitOptions(ablations=True, penalty_weight=3.0, composition="exact"))

    found = fit_hgprompt(fit)

    free = fit_h_ensemble(fit).weights
    features = [features_under(fit, prompt) for prompt in fit.sources.stored]
    refined = refine_on_composite(fit, features, free, None)
    assert not torch.allclose(refined.weights, free, atol=0.01)
    ablations = by_name(found)
    torch.testing.assert_close(ablations[PENALTY].weights, refined.weights)
    assert torch.equal(ablations[ALIGNMENT].weights, found.weights)
    summed = torch.einsum("m,mnd->nd", found.weights, torch.stack(features).double())
    rows = fit.validation_rows
    logits = fit_class_head(summed, fit.labels, 2).held_out_logits[rows]
    assert ablations[COMPOSING].standing.log_loss == pytest.approx(
        float(functional.cross_entropy(logits, fit.labels[rows])), rel=1e-4
    )


def test_tokens_are_aligned_where_only_the_penalty_is_left_out(
    make_session: MakeSession, sources: list[Tensor]
) -> None:
    known, off = sources[1], 0.6 * sources[0]
    fit = make_session(OPTIONS, sources=[known + off, (known - off).flip(1)])
    features = [features_under(fit, prompt) for prompt in fit.sources.stored]
    (learned,) = fit_h_ensemble(fit).candidates
    free = learned.weights
    assert free.min() > 0.1
    aligned, stored = (
        features_under(fit, compose(prompts, free))
        for prompts in (fit.sources.aligned, fit.sources.stored)
    )
    assert not torch.allclose(aligned, stored, atol=0.1)
    penalty = GradientVariancePenalty(torch.ones(2, 1))

    ablations = run_ablations(
        fit, features, learned, summed_weights=free, penalty=penalty, tuned=None
    )

    (found,) = [ablation for ablation in ablations if ablation.name == PENALTY]
    rows = fit.validation_rows
    logits = fit_class_head(aligned, fit.labels, 2).held_out_logits[rows]
    assert found.standing.log_loss == pytest.approx(
        float(functional.cross_entropy(logits, fit.labels[rows])), rel=1e-4
    )


def test_a_fit_of_the_exact_objective_is_compared_with_the_feature_sum(
    make_session: MakeSession, found: Findings
) -> None:
    exact = fit_hgprompt(make_session(replace(OPTIONS, composition="exact")))

    ablations = by_name(exact)

    assert list(ablations) == [PENALTY, ALIGNMENT, SUMMED, COMPOSING]
    assert torch.equal(ablations[SUMMED].weights, found.weights)
    (learned,) = [c for c in found.candidates if c.standing.method == "hgprompt"]
    assert ablations[SUMMED].standing == learned.standing


@pytest.mark.parametrize("tuned_by_the_fit", [True, False])
def test_the_learned_ensemble_is_tuned_once_whatever_the_fit_chose(
    make_session: MakeSession, monkeypatch: pytest.MonkeyPatch, tuned_by_the_fit: bool
) -> None:
    def chosen(favoured: list[Candidate], *_: object) -> Candidate:
        return favoured[0 if tuned_by_the_fit else 2]  # the ensemble, or the mean

    monkeypatch.setattr(hgprompt, "choose", chosen)
    options = replace(OPTIONS, tuning_epochs=6, prompt_learning_rate=0.02)
    fit = make_session(options)

    found = fit_hgprompt(fit)

    (learned,) = [
        c for c in found.candidates if c.standing.method == "hgprompt" and not c.standing.tuned
    ]
    expected = tune_candidate(make_session(options), learned)
    assert expected is not None
    ablation = by_name(found)[TUNING]
    assert ablation.standing == expected.standing
    assert ablation.difference == pytest.approx(
        expected.standing.accuracy - learned.standing.accuracy
    )
    assert torch.equal(ablation.weights, found.weights)
    assert ("ablation tuning" in fit.timings_s) == (not tuned_by_the_fit)
    assert sum(c.standing.tuned for c in found.candidates) == 1


def test_tuning_that_does_not_help_makes_no_difference(make_session: MakeSession) -> None:
    # A learning rate that spoils the prompt in the first step.
    found = fit_hgprompt(make_session(replace(OPTIONS, tuning_epochs=1, prompt_learning_rate=10.0)))

    assert not any(c.standing.tuned for c in found.candidates)
    assert by_name(found)[TUNING].difference == 0
