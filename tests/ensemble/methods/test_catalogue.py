"""What is asked of every method: learn nothing from held-out images, nor from the order."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from ensemble.fit_result import FitResult
from ensemble.fit_session import FitSession
from ensemble.methods.catalogue import METHODS
from ensemble.methods.findings import Diagnostics
from ensemble.options import TUNING_METHODS, FitOptions, Method
from ensemble.prompt_tuning import LabelledPixels

pytestmark = pytest.mark.usefixtures("short_embedding")
MakeSession = Callable[..., FitSession]
Fit = Callable[..., FitResult]
ALL: tuple[Method, ...] = get_args(Method)


def options_for(method: Method) -> FitOptions:
    """The default options, with the tuning that some methods need."""
    return FitOptions(tuning_epochs=2 if method in TUNING_METHODS else 0, prompt_learning_rate=0.02)


def test_every_name_has_its_method() -> None:
    assert set(METHODS) == set(ALL)
    assert [function.__name__ for function in METHODS.values()] == [f"fit_{m}" for m in METHODS]


@pytest.mark.parametrize("align", [True, False])
@pytest.mark.parametrize("method", ALL)
def test_the_order_of_the_sources_does_not_matter(
    fit: Fit, sources: list[Tensor], method: Method, align: bool
) -> None:
    order = [3, 0, 4, 1, 2]
    options = replace(options_for(method), align=align)

    one = fit(method=method, options=options)
    other = fit(method=method, options=options, sources=[sources[i] for i in order])

    if len(one.weights):
        torch.testing.assert_close(other.weights, one.weights[order], rtol=0, atol=5e-3)
    assert (one.chosen.method, one.chosen.tuned) == (other.chosen.method, other.chosen.tuned)
    if one.chosen.source is not None:
        assert order[other.chosen.source or 0] == one.chosen.source
    scale = float(one.features.std())
    torch.testing.assert_close(other.features, one.features, rtol=0, atol=2e-2 * scale)
    difference = torch.tensor([s.log_loss for s in one.leaderboard]) - torch.tensor(
        [s.log_loss for s in other.leaderboard]
    )
    assert difference.abs().max() < 1e-2


def learned(diagnostics: Diagnostics) -> list[Any]:
    """What was learned about sources and weights, without what was scored on held-out images."""
    cosine = diagnostics.gradient_cosine
    return [
        diagnostics.objective,
        diagnostics.sources,
        diagnostics.similarities,
        None if cosine is None else cosine.tolist(),
        diagnostics.composition_gap,
        diagnostics.objective_curve,
        diagnostics.composite_curve,
        [ablation.weights.tolist() for ablation in diagnostics.ablations],
    ]


@pytest.mark.parametrize("changed", ["pixels", "labels"])
@pytest.mark.parametrize("method", ALL)
def test_held_out_images_have_no_say_in_weights(
    make_session: MakeSession, few: LabelledPixels, method: Method, changed: str
) -> None:
    """But for `single` and the last step of `spot`, which say that they choose by them."""
    options = replace(options_for(method), composition="exact", ablations=True)
    fit = make_session(options, images=few)
    values = getattr(fit, changed).clone()
    held_out = values[fit.validation_rows]
    values[fit.validation_rows] = 255 - held_out.flip(0) if changed == "pixels" else 1 - held_out

    one = METHODS[method](fit)
    other = METHODS[method](replace(fit, **{changed: values}))

    assert learned(one.diagnostics) == learned(other.diagnostics)
    scores = [{c.standing.log_loss for c in found.candidates} for found in (one, other)]
    assert not scores[0] & scores[1]
    if method == "spot":
        tried = [sorted(c.weights.tolist() for c in found.candidates) for found in (one, other)]
        assert tried[0] == tried[1]
    elif method != "single":
        assert torch.equal(one.weights, other.weights)
