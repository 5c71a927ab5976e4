from collections.abc import Callable

import pytest
import torch

from ensemble.class_head import fit_class_head
from ensemble.fit_session import FitSession
from ensemble.methods.single import fit_single


def test_the_source_is_taken_that_does_best_on_the_held_out_images(
    make_session: Callable[..., FitSession],
) -> None:
    fit = make_session()

    found = fit_single(fit)

    accuracies: list[float] = []
    for prompt in fit.sources.stored:
        features = torch.cat([fit.vit(batch, prompt) for batch in fit.pixels.split(32)])
        logits = fit_class_head(features, fit.labels, 2).held_out_logits[fit.validation_rows]
        correct = logits.argmax(1) == fit.labels[fit.validation_rows]
        accuracies.append(float(correct.double().mean()))
    best = accuracies.index(max(accuracies))
    assert best == 1
    assert accuracies.count(accuracies[best]) == 1
    assert found.weights.tolist() == [0, 1, 0, 0, 0]
    assert {c.standing.source: c.standing.accuracy for c in found.candidates} == pytest.approx(
        dict(enumerate(accuracies))
    )
    assert found.candidates[0].standing.source == best


def test_a_candidates_prompt_is_its_source_but_for_the_order_of_tokens(
    make_session: Callable[..., FitSession],
) -> None:
    fit = make_session()

    for candidate in fit_single(fit).candidates:
        source = candidate.standing.source
        assert source is not None
        for made, stored in zip(candidate.prompt, fit.sources.stored[source], strict=True):
            assert sorted(map(tuple, made.tolist())) == sorted(map(tuple, stored.tolist()))
