"""The same fit gives the same bytes, in the precision that was asked for."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from ensemble.fit_result import FitResult
from ensemble.fitting import fit_ensemble
from ensemble.options import FitOptions, Method
from ensemble.prompt_tuning import LabelledPixels
from ensemble.prompted_vit import PromptedViT

pytestmark = pytest.mark.usefixtures("short_embedding")
Fit = Callable[..., FitResult]
ALL: tuple[Method, ...] = get_args(Method)
EVERYTHING = FitOptions(
    tuning_epochs=2,
    prompt_learning_rate=0.02,
    composition="exact",
    cotangent_refreshes=3,
    ablations=True,
)


def numbers(result: FitResult) -> list[Tensor]:
    """All numbers of a result that would be published."""
    diagnostics = result.diagnostics
    cosine, gap = diagnostics.gradient_cosine, diagnostics.composition_gap
    return [
        result.weights,
        result.chosen_weights,
        result.prompt,
        result.head.weight,
        result.head.bias,
        result.features,
        torch.tensor([[s.accuracy, s.log_loss, *s.ci95] for s in result.leaderboard]),
        torch.tensor(result.screening.scores if result.screening else ()),
        torch.tensor(diagnostics.objective_curve),
        torch.tensor(diagnostics.composite_curve),
        torch.tensor(diagnostics.similarities),
        torch.tensor(list((diagnostics.objective or {}).values())),
        torch.zeros(0) if cosine is None else cosine,
        torch.zeros(0) if gap is None else torch.tensor([gap.aligned, gap.unaligned]),
        *(ablation.weights for ablation in diagnostics.ablations),
    ]


@pytest.mark.parametrize(
    ("method", "precision"), [*((method, "fp32") for method in ALL), ("hgprompt", "bf16")]
)
def test_the_same_seed_gives_the_same_bytes_with_every_option(
    fit: Fit, few: LabelledPixels, method: Method, precision: Any
) -> None:
    options = replace(EVERYTHING, max_sources=3, precision=precision)

    first, second = (fit(method=method, images=few, options=options, seed=7) for _ in range(2))

    for one, other in zip(numbers(first), numbers(second), strict=True):
        assert torch.equal(one, other)
    assert first.kept == second.kept


@pytest.mark.parametrize("method", ["none", "hgprompt", "panda"])
def test_the_precision_is_that_of_one_fit(
    fit: Fit, few: LabelledPixels, vit: PromptedViT, method: Method
) -> None:
    options = replace(EVERYTHING, tuning_epochs=1)

    usual, exact, rough = (
        fit(method=method, images=few, options=replace(options, precision=precision))
        for precision in ("auto", "fp32", "bf16")
    )

    assert vit.autocast_dtype is None
    assert {p.dtype for p in vit.parameters()} == {torch.float32}
    assert torch.equal(usual.features, exact.features)
    assert not torch.equal(usual.features, rough.features)
    assert rough.features.dtype == rough.prompt.dtype == torch.float32


def test_a_fit_can_ask_for_more_precision_than_the_worker_has(
    vit: PromptedViT, images: LabelledPixels
) -> None:
    worker = vit.with_autocast(torch.bfloat16)

    auto, exact = (
        fit_ensemble(
            worker,
            [],
            images,
            num_classes=2,
            method="none",
            options=FitOptions(precision=precision),
        )
        for precision in ("auto", "fp32")
    )

    assert worker.autocast_dtype == torch.bfloat16
    (plain,) = torch.cat([vit(batch) for batch in images.pixels.split(32)])[None]
    assert torch.equal(exact.features, plain)
    assert not torch.equal(auto.features, plain)
