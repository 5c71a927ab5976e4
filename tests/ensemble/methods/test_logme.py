from collections.abc import Callable

import pytest
import torch

from ensemble.fit_session import FitSession
from ensemble.logme import log_maximum_evidence
from ensemble.methods.logme import fit_logme
from ensemble.options import FitOptions


@pytest.mark.parametrize("seed", [0, 1])
def test_the_source_of_the_highest_evidence_on_the_training_images_is_taken(
    make_session: Callable[..., FitSession], seed: int
) -> None:
    fit = make_session(seed=seed)

    found = fit_logme(fit)

    evidence = [
        log_maximum_evidence(
            torch.cat([fit.vit(batch, prompt) for batch in fit.train.pixels.split(32)]),
            fit.train.labels,
        )
        for prompt in fit.sources.stored
    ]
    best = evidence.index(max(evidence))
    assert [s.logme for s in found.diagnostics.sources] == pytest.approx(evidence, rel=1e-4)
    assert found.weights.tolist() == [float(i == best) for i in range(5)]
    (candidate,) = found.candidates
    assert (candidate.standing.method, candidate.standing.source) == ("logme", best)
    features = torch.cat([fit.vit(batch, candidate.prompt) for batch in fit.pixels.split(32)])
    torch.testing.assert_close(candidate.features, features, rtol=1e-4, atol=1e-4)


def test_held_out_accuracy_has_no_say_in_the_source(
    make_session: Callable[..., FitSession],
) -> None:
    """The source that knows the task loses its evidence, but not its held-out accuracy."""
    fit = make_session(FitOptions(tuning_epochs=1))
    generator = torch.Generator().manual_seed(0)
    fit.labels = fit.labels.clone()
    fit.labels[fit.train_rows] = fit.train.labels[torch.randperm(56, generator=generator)]

    found = fit_logme(fit)

    assert found.weights.argmax() != 1
    (untuned,) = found.candidates  # on permuted labels no epoch is better than the start
    assert untuned.standing.source == int(found.weights.argmax())
