from collections.abc import Callable

import pytest
import torch

from ensemble.composition import compose
from ensemble.fit_session import FitSession
from ensemble.hscore import adjusted_h_score
from ensemble.methods.h_ensemble import fit_h_ensemble
from ensemble.methods.hgprompt import fit_hgprompt
from ensemble.options import FitOptions
from ensemble.simplex import solve_weights

MakeSession = Callable[..., FitSession]


def test_the_weights_maximise_the_score_of_the_feature_sum(make_session: MakeSession) -> None:
    fit = make_session(FitOptions(penalty_weight=50.0, shrinkage=0.1))
    features = torch.stack(
        [
            torch.cat([fit.vit(batch, prompt) for batch in fit.train.pixels.split(32)])
            for prompt in fit.sources.stored
        ]
    )

    found = fit_h_ensemble(fit)

    alone = solve_weights(features, fit.train.labels, shrinkage=0.1, seed=0)
    torch.testing.assert_close(found.weights, alone.weights, rtol=1e-3, atol=1e-4)

    def score(weights: torch.Tensor) -> float:
        summed = torch.einsum("m,mnd->nd", weights, features.double())
        return float(adjusted_h_score(summed, fit.train.labels, shrinkage=0.1))

    reached = score(found.weights)
    assert found.diagnostics.objective_curve[-1] == pytest.approx(reached, rel=1e-4)
    generator = torch.Generator().manual_seed(0)
    anywhere = torch.rand(50, 5, dtype=torch.float64, generator=generator).log().neg()
    assert reached >= max(score(w / w.sum()) for w in anywhere)


def test_one_composite_prompt_is_served(make_session: MakeSession) -> None:
    fit = make_session()

    found = fit_h_ensemble(fit)

    (candidate,) = found.candidates
    assert torch.equal(candidate.weights, found.weights)
    assert torch.equal(candidate.prompt, compose(fit.sources.aligned, found.weights))
    features = torch.cat([fit.vit(batch, candidate.prompt) for batch in fit.pixels.split(32)])
    torch.testing.assert_close(candidate.features, features, rtol=1e-4, atol=1e-4)


def test_hgprompt_without_its_penalty_learns_the_same_weights(make_session: MakeSession) -> None:
    fit = make_session(FitOptions(penalty_weight=0.0))

    of_h_ensemble, of_hgprompt = fit_h_ensemble(fit), fit_hgprompt(fit)

    assert torch.equal(of_h_ensemble.weights, of_hgprompt.weights)
    assert of_h_ensemble.diagnostics.objective_curve == of_hgprompt.diagnostics.objective_curve
    bound = fit_hgprompt(make_session(FitOptions(penalty_weight=20.0)))
    assert not torch.allclose(bound.weights, of_hgprompt.weights, atol=0.05)
