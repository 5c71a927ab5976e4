from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ensemble.errors import FitStoppedError
from ensemble.features import extract_features
from ensemble.prompted_vit import PromptedViT


@pytest.mark.parametrize("prompted", [False, True])
def test_features_of_many_images_are_those_of_the_batches_in_order(
    vit: PromptedViT, pixels: Tensor, make_prompts: Callable[..., list[Tensor]], prompted: bool
) -> None:
    prompt = make_prompts(1)[0].half().requires_grad_() if prompted else None
    counts: list[int] = []

    (features,) = extract_features(vit, pixels, [prompt], batch_size=3, on_batch=counts.append)

    expected = torch.cat([vit(batch, prompt) for batch in pixels.split(3)])
    assert torch.equal(features, expected)
    assert counts == [3, 3, 2]
    assert (features.dtype, features.requires_grad) == (torch.float32, False)


def test_each_prompt_gets_the_features_it_gets_alone(
    vit: PromptedViT, pixels: Tensor, make_prompts: Callable[..., list[Tensor]]
) -> None:
    prompts = [None, *make_prompts(2)]
    counts: list[int] = []

    together = extract_features(vit, pixels, prompts, batch_size=5, on_batch=counts.append)

    for features, prompt in zip(together, prompts, strict=True):
        (alone,) = extract_features(vit, pixels, [prompt], batch_size=5)
        assert torch.equal(features, alone)
    assert counts == [5, 5, 5, 3, 3, 3]


def test_it_stops_before_the_next_batch(vit: PromptedViT, pixels: Tensor) -> None:
    counts: list[int] = []

    with pytest.raises(FitStoppedError, match="after 6 of 16 forward passes"):
        extract_features(
            vit,
            pixels,
            [None, None],
            batch_size=3,
            on_batch=counts.append,
            should_stop=lambda: len(counts) == 2,
        )
