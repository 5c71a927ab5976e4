import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from ensemble.errors import FitStoppedError
from ensemble.fit_session import FitSession
from ensemble.methods import target_prompt as target_prompt_module
from ensemble.methods.target_prompt import (
    prompt_similarities,
    target_prompt,
)
from ensemble.methods.vpt import random_prompt
from ensemble.options import FitOptions
from ensemble.prompt_tuning import LabelledPixels

MakeSession = Callable[..., FitSession]


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a.double() @ b.double() / (a.double().norm() * b.double().norm()))


def by_loops(target: Tensor, source: Tensor) -> float:
    """The mean over layers of the mean cosine of all pairs of tokens."""
    layers: list[float] = []
    for of_target, of_source in zip(target, source, strict=True):
        pairs = [cosine(a, b) for a in of_target for b in of_source]
        layers.append(sum(pairs) / len(pairs))
    return sum(layers) / len(layers)


@pytest.mark.parametrize("num_layers", [1, 3])
def test_similarities_are_means_over_all_pairs_of_tokens(num_layers: int) -> None:
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(num_layers, 4, 32, generator=generator)
    sources = torch.randn(5, num_layers, 4, 32, generator=generator) + target.mean()

    similarities = prompt_similarities(target, sources)

    assert similarities.tolist() == pytest.approx([by_loops(target, s) for s in sources])
    in_another_order = sources[:, :, [2, 0, 3, 1]]
    torch.testing.assert_close(prompt_similarities(target, in_another_order), similarities)
    torch.testing.assert_close(prompt_similarities(3 * target, 0.1 * sources), similarities)
    torch.testing.assert_close(prompt_similarities(target, -sources), -similarities)


def test_a_source_of_zeros_is_like_nothing() -> None:
    target = torch.ones(3, 4, 32)

    assert prompt_similarities(target, torch.zeros(2, 3, 4, 32)).tolist() == [0, 0]


@pytest.mark.parametrize(("num_images", "rate"), [(80, 0.005), (8, 0.005), (80, 10.0)])
def test_it_takes_about_fifty_steps_on_the_target(
    make_session: MakeSession, images: LabelledPixels, num_images: int, rate: float
) -> None:
    """Also at a learning rate at which no step makes it better."""
    told: list[tuple[str, int, int]] = []

    def progress(stage: str, step: int, total: int, **_: Any) -> None:
        told.append((stage, step, total))

    few = LabelledPixels(images.pixels[:num_images], images.labels[:num_images])
    options = FitOptions(prompt_learning_rate=rate)
    fit = make_session(options, images=few, progress=progress)

    prompt = target_prompt(fit)

    epochs = told[-1][2]
    assert told[-1] == ("task embedding", epochs, epochs)
    assert epochs * math.ceil(len(fit.train_rows) / 32) in range(49, 52)
    start = random_prompt(fit)
    assert prompt.shape == start.shape
    assert rate > 1 or (prompt - start).norm() > 0.1 * start.norm()
    assert "task embedding" in fit.timings_s


def test_it_has_learned_the_target(make_session: MakeSession) -> None:
    """A head that is fitted on the training images alone has a lower loss under the prompt."""
    fit = make_session()

    losses: list[float] = []
    for prompt in (random_prompt(fit), target_prompt(fit)):
        features = torch.cat([fit.vit(batch, prompt) for batch in fit.pixels.split(32)])
        logits = fit.train_head(features).logits(features[fit.train_rows])
        losses.append(float(functional.cross_entropy(logits, fit.train.labels)))

    assert losses[1] < losses[0] - 0.05


def test_held_out_images_have_no_say(make_session: MakeSession) -> None:
    fit = make_session()
    pixels, labels = fit.pixels.clone(), fit.labels.clone()
    pixels[fit.validation_rows] = 255 - pixels[fit.validation_rows].flip(0)
    labels[fit.validation_rows] = 1 - labels[fit.validation_rows]

    prompt = target_prompt(fit)

    assert torch.equal(prompt, target_prompt(replace(fit, pixels=pixels, labels=labels)))
    assert not torch.equal(prompt, target_prompt(make_session(seed=1)))


@pytest.mark.usefixtures("short_embedding")
def test_the_seed_decides_the_order_of_the_images_too(
    make_session: MakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = make_session(FitOptions(prompt_learning_rate=0.05))
    start = random_prompt(fit)

    def same_start(_fit: FitSession) -> Tensor:
        return start

    monkeypatch.setattr(target_prompt_module, "random_prompt", same_start)

    one, same, other = (target_prompt(replace(fit, seed=seed)) for seed in (1, 1, 2))

    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.usefixtures("short_embedding")
def test_its_steps_are_of_the_length_that_was_asked_for(make_session: MakeSession) -> None:
    slow, fast = (make_session(FitOptions(prompt_learning_rate=rate)) for rate in (0.001, 0.05))
    start = random_prompt(slow)

    moved = [float((target_prompt(fit) - start).norm()) for fit in (slow, fast)]

    assert 0 < 10 * moved[0] < moved[1]


def test_it_can_be_stopped(make_session: MakeSession) -> None:
    with pytest.raises(FitStoppedError, match="stopped after 0 of 56 forward passes"):
        target_prompt(make_session(should_stop=lambda: True))
