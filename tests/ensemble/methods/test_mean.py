from collections.abc import Callable

import pytest
import torch

from ensemble.composition import align_tokens
from ensemble.fit_session import FitSession
from ensemble.methods.mean import fit_mean
from ensemble.options import FitOptions


@pytest.mark.parametrize("align", [True, False])
def test_it_is_the_average_of_all_sources(
    make_session: Callable[..., FitSession], align: bool
) -> None:
    fit = make_session(FitOptions(align=align))

    found = fit_mean(fit)

    prompts = align_tokens(fit.sources.stored) if align else fit.sources.stored
    average = sum((prompt.double() for prompt in prompts), torch.zeros(3, 4, 32).double()) / 5
    (candidate,) = found.candidates
    assert found.weights.tolist() == candidate.weights.tolist() == pytest.approx([0.2] * 5)
    torch.testing.assert_close(candidate.prompt, average.float())
    features = torch.cat([fit.vit(batch, average.float()) for batch in fit.pixels.split(32)])
    torch.testing.assert_close(candidate.features, features, rtol=1e-4, atol=1e-5)


def test_the_average_is_tuned_where_that_is_asked_for(
    make_session: Callable[..., FitSession],
) -> None:
    found = fit_mean(make_session(FitOptions(tuning_epochs=1)))

    assert sorted(c.standing.tuned for c in found.candidates) == [False, True]
    assert {c.standing.method for c in found.candidates} == {"mean"}
