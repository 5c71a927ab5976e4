from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ensemble.class_head import fit_class_head
from ensemble.fit_session import FitSession
from ensemble.methods.vpt import NUM_PROMPT_TOKENS, fit_vpt, random_prompt
from ensemble.prompt_tuning import tune_prompt
from tests.ensemble.methods.short_tuning import CONFIG, OPTIONS

MakeSession = Callable[..., FitSession]


@pytest.mark.parametrize("num_sources", [0, 5])
def test_it_is_a_random_prompt_and_that_prompt_tuned(
    make_session: MakeSession, sources: list[Tensor], num_sources: int
) -> None:
    fit = make_session(OPTIONS, sources=sources[:num_sources])

    found = fit_vpt(fit)

    assert found.weights.shape == (0,)
    assert all(c.weights.shape == (0,) for c in found.candidates)
    by_tuned = {c.standing.tuned: c for c in found.candidates}
    start = by_tuned[False].prompt
    assert start.shape == ((3, 4, 32) if num_sources else (3, NUM_PROMPT_TOKENS, 32))
    bound = (6 / (3 * 4**2 + 32)) ** 0.5
    assert 0.9 * bound < start.abs().max() <= bound
    features = torch.cat([fit.vit(batch, start) for batch in fit.train.pixels.split(32)])
    tuned = tune_prompt(
        fit.vit,
        start,
        fit.train,
        fit.validation,
        num_classes=2,
        config=CONFIG,
        initial_head=fit_class_head(features, fit.train.labels, 2),
    )
    torch.testing.assert_close(by_tuned[True].prompt, tuned.prompt, rtol=1e-3, atol=1e-4)
    assert tuned.best.epoch > 0
    assert not torch.equal(tuned.prompt, start)


def test_the_sources_give_it_their_shape_and_nothing_else(
    make_session: MakeSession, sources: list[Tensor]
) -> None:
    shallow = [source[:1, :2] for source in sources]

    one, other = (
        random_prompt(make_session(sources=given)) for given in (shallow, [-9 * shallow[0]])
    )

    assert one.shape == (1, 2, 32)
    assert torch.equal(one, other)


def test_the_seed_decides_the_start(make_session: MakeSession) -> None:
    first, same, other = (random_prompt(make_session(seed=seed)) for seed in (4, 4, 5))

    assert torch.equal(first, same)
    assert not torch.equal(first, other)
