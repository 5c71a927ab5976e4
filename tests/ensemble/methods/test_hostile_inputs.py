"""Sources and images that no method may trip over."""

from collections.abc import Callable
from dataclasses import replace
from typing import get_args

import pytest
import torch
from torch import Tensor

from ensemble.fit_result import FitResult
from ensemble.options import FitOptions, Method
from ensemble.prompt_tuning import LabelledPixels

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
A = torch.randn(3, 4, 32, generator=torch.Generator().manual_seed(5))
ZEROS = torch.zeros(3, 4, 32)
HOSTILE_SOURCES = {
    "one": [A],
    "one, shallow, of one token": [A[:1, :1]],
    "the same three times": [A, A, A],
    "one of zeros": [A, ZEROS],
    "nothing but zeros": [ZEROS, ZEROS],
    "a token like no other": [A, A.roll(1, 0), torch.full_like(A, 65504.0)],
    "hardly anything": [A, 1e-30 * A],
    "opposites": [A, -A],
}
HOSTILE_LABELS = {
    "two of each class": [0, 1, 0, 1],
    "three images": [0, 0, 1],
    "a class of one": [0, 0, 0, 0, 1],
    "every class but one of one": [0, 0, *range(1, 9)],
    "all of one class": [0] * 8,
    "classes without images": [3, 7, 3, 7, 3, 7, 3],
}


def check(result: FitResult, num_sources: int) -> None:
    """Everything is finite, and weights are on the simplex."""
    for values in (result.prompt, result.head.weight, result.head.bias, result.features):
        assert values.isfinite().all()
    for weights in (result.weights, result.chosen_weights):
        assert weights.shape in ((0,), (num_sources,))
        if len(weights):
            assert weights.min() >= 0
            assert float(weights.sum()) == pytest.approx(1)
    assert len(result.features) == len(result.head.held_out_logits)


@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize("case", HOSTILE_SOURCES)
def test_odd_sources_are_no_obstacle(
    fit: Fit, few: LabelledPixels, method: Method, case: str
) -> None:
    sources = HOSTILE_SOURCES[case]
    options = replace(EVERYTHING, tuning_epochs=1, cotangent_refreshes=2)

    result = fit(method=method, sources=sources, options=options, images=few)

    check(result, len(sources))


@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize("case", HOSTILE_LABELS)
def test_few_images_are_no_obstacle(
    fit: Fit, images: LabelledPixels, sources: list[Tensor], method: Method, case: str
) -> None:
    """Fewer than fill a batch, too."""
    labels = torch.tensor(HOSTILE_LABELS[case])
    few = LabelledPixels(images.pixels[: len(labels)], labels)
    options = replace(EVERYTHING, tuning_epochs=1, max_sources=2)

    result = fit(method=method, sources=sources[:3], images=few, num_classes=9, options=options)

    check(result, len(result.kept))
    assert result.head.bias.shape == (9,)
