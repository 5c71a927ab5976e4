"""The same numbers on a GPU; run with `pytest -m gpu` where there is one."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ensemble.fitting import fit_ensemble
from ensemble.options import FitOptions
from ensemble.prompt_tuning import LabelledPixels
from ensemble.prompted_vit import PromptedViT

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device"),
]


@pytest.fixture
def on_gpu(make_vit: Callable[..., PromptedViT]) -> PromptedViT:
    return make_vit().to("cuda")


def test_features_are_those_of_the_cpu(
    on_gpu: PromptedViT,
    vit: PromptedViT,
    pixels: Tensor,
    make_prompts: Callable[..., list[Tensor]],
) -> None:
    per_row = torch.stack(make_prompts(8))

    found = on_gpu(pixels.cuda(), per_row.cuda())

    # cuDNN may compute the patch embedding in TF32, with ten bits of mantissa.
    torch.testing.assert_close(found.cpu(), vit(pixels, per_row), atol=2e-2, rtol=2e-2)
    assert torch.equal(on_gpu(pixels.cuda(), per_row[:, :, :0].cuda()), on_gpu(pixels.cuda()))


def test_a_fit_runs_and_answers_on_the_cpu(
    on_gpu: PromptedViT,
    vit: PromptedViT,
    toy_task: Callable[..., LabelledPixels],
    make_prompts: Callable[..., list[Tensor]],
) -> None:
    options = FitOptions(tuning_epochs=2)

    result, expected = (
        fit_ensemble(model, make_prompts(3), toy_task(60), num_classes=2, options=options)
        for model in (on_gpu, vit)
    )

    for tensor in (
        result.weights,
        result.prompt,
        result.head.weight,
        result.diagnostics.gradient_cosine,
    ):
        assert tensor is not None
        assert tensor.device.type == "cpu"
    torch.testing.assert_close(result.weights, expected.weights, atol=0.05, rtol=0)
