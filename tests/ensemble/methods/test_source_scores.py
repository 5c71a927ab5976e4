from collections.abc import Callable
from dataclasses import asdict

import pytest
import torch

from ensemble.errors import FitStoppedError
from ensemble.fit_session import FitSession
from ensemble.hscore import adjusted_h_score, h_score
from ensemble.logme import log_maximum_evidence
from ensemble.methods.findings import Findings
from ensemble.methods.h_ensemble import fit_h_ensemble
from ensemble.methods.hgprompt import fit_hgprompt
from ensemble.methods.logme import fit_logme
from ensemble.methods.single import fit_single
from ensemble.methods.source_scores import score_sources
from ensemble.options import FitOptions


def test_every_source_is_scored_on_the_training_images_alone(
    make_session: Callable[..., FitSession],
) -> None:
    fit = make_session(FitOptions(shrinkage=0.2))
    features = fit.features_of("features", list(fit.sources.stored))
    for f in features:
        f[fit.validation_rows] = torch.nan

    scores = score_sources(fit, features)

    for f, score in zip(features, scores, strict=True):
        f, labels = f[fit.train_rows], fit.labels[fit.train_rows]  # noqa: PLW2901
        assert score.h_score == pytest.approx(float(h_score(f, labels)))
        adjusted = float(adjusted_h_score(f, labels, shrinkage=0.2))
        assert score.h_score_adjusted == pytest.approx(adjusted)
        assert score.logme == pytest.approx(log_maximum_evidence(f, labels))
    assert len({score.h_score_adjusted for score in scores}) == 5
    assert fit.timings_s["source scores"] > 0


@pytest.mark.parametrize("method", [fit_hgprompt, fit_single, fit_h_ensemble, fit_logme])
def test_methods_that_have_the_features_tell_the_scores(
    make_session: Callable[..., FitSession], method: Callable[[FitSession], Findings]
) -> None:
    fit = make_session()
    expected = score_sources(fit, fit.features_of("features", list(fit.sources.stored)))

    found = method(make_session()).diagnostics.sources

    assert len(found) == 5
    for score, other in zip(found, expected, strict=True):
        assert asdict(score) == pytest.approx(asdict(other), rel=1e-4)


def test_it_stops_between_two_sources(make_session: Callable[..., FitSession]) -> None:
    fit = make_session(should_stop=lambda: True)

    with pytest.raises(FitStoppedError):
        score_sources(fit, [torch.zeros(80, 32)])


def test_it_stops_within_a_source(make_session: Callable[..., FitSession]) -> None:
    """The evidence of many classes takes a while."""
    asked: list[None] = []

    def should_stop() -> bool:
        asked.append(None)
        return len(asked) > 1

    fit = make_session(should_stop=should_stop)

    with pytest.raises(FitStoppedError):
        score_sources(fit, [torch.randn(80, 32, generator=torch.Generator().manual_seed(0))])
