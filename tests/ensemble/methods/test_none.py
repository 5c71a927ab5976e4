from collections.abc import Callable

import torch

from ensemble.fit_session import FitSession
from ensemble.methods.none import fit_none
from ensemble.options import FitOptions


def test_the_head_stands_on_the_backbones_own_features(
    make_session: Callable[..., FitSession],
) -> None:
    fit = make_session(FitOptions(tuning_epochs=3), sources=[])

    found = fit_none(fit)

    (candidate,) = found.candidates  # tuning has no prompt to work on
    own = torch.cat([fit.vit(batch) for batch in fit.pixels.split(32)])
    assert torch.equal(candidate.features, own)
    assert found.diagnostics.plain_features is candidate.features
    assert candidate.prompt.shape == (1, 0, 32)
    assert found.weights.shape == candidate.weights.shape == (0,)
    assert candidate.standing.accuracy > 0.6
