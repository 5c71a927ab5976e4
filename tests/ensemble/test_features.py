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

    features = extract_features(vit, pixels, prompt, batch_size=3, on_batch=counts.append)

    expected = torch.cat([vit(batch, prompt) for batch in pixels.split(3)])
    assert torch.equal(features, expected)
    assert counts == [3, 3, 2]
    assert (features.dtype, features.requires_grad) == (torch.float32, False)


def test_it_stops_before_the_next_batch(vit: PromptedViT, pixels: Tensor) -> None:
    counts: list[int] = []

    with pytest.raises(FitStoppedError, match="after 6 of 8 images"):
        extract_features(
            vit,
            pixels,
            None,
            batch_size=3,
            on_batch=counts.append,
            should_stop=lambda: len(counts) == 2,
        )
