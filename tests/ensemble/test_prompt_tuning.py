import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from ensemble import prompt_tuning
from ensemble.class_head import ClassHead, calibrate, fit_class_head
from ensemble.errors import FitStoppedError
from ensemble.features import extract_features
from ensemble.prompt_tuning import (
    Epoch,
    LabelledPixels,
    TunedPrompt,
    TuningConfig,
    cross_entropy,
    tune_prompt,
)
from ensemble.prompted_vit import PromptedViT, init_prompt

ToyTask = Callable[..., LabelledPixels]
FAST = TuningConfig(epochs=6, prompt_learning_rate=0.05, head_learning_rate=0.05)


def start_prompt(num_layers: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return init_prompt(num_layers, 4, 32, patch_size_px=4, generator=generator)


def accuracy(
    vit: PromptedViT, prompt: Tensor, train: LabelledPixels, test: LabelledPixels
) -> float:
    """Of the closed-form head on the features under a prompt."""
    (features,) = extract_features(vit, train.pixels, [prompt], batch_size=64)
    head = fit_class_head(features, train.labels, 2)
    (features,) = extract_features(vit, test.pixels, [prompt], batch_size=64)
    return float((head.logits(features).argmax(1) == test.labels).double().mean())


def tune(vit: PromptedViT, toy_task: ToyTask, config: TuningConfig, seed: int = 0) -> TunedPrompt:
    return tune_prompt(
        vit,
        start_prompt(),
        toy_task(64, seed=1),
        toy_task(64, seed=2),
        num_classes=2,
        config=replace(config, seed=seed),
    )


@pytest.mark.parametrize("num_layers", [1, 3])
@pytest.mark.parametrize(("optimizer", "rate"), [("adamw", 0.05), ("sgd", 0.5)])
def test_a_tuned_prompt_makes_features_that_are_easier_to_classify(
    vit: PromptedViT,
    toy_task: ToyTask,
    optimizer: Literal["adamw", "sgd"],
    rate: float,
    num_layers: int,
) -> None:
    train, validation, test = (toy_task(n, seed=i) for i, n in enumerate((160, 80, 400)))
    start = start_prompt(num_layers)

    tuned = tune_prompt(
        vit,
        start,
        train,
        validation,
        num_classes=2,
        config=TuningConfig(
            epochs=10, optimizer=optimizer, prompt_learning_rate=rate, head_learning_rate=0.05
        ),
    )

    assert tuned.best.validation_loss < 0.7 * tuned.epochs[0].validation_loss
    assert accuracy(vit, tuned.prompt, train, test) > accuracy(vit, start, train, test) + 0.03


def test_the_head_that_comes_back_is_the_one_that_was_validated(
    vit: PromptedViT, toy_task: ToyTask
) -> None:
    """On raw features, although the tuning works on scaled ones."""
    tuned = tune(vit, toy_task, FAST)

    validation = toy_task(64, seed=2)
    (features,) = extract_features(vit, validation.pixels, [tuned.prompt], batch_size=32)
    logits = features @ tuned.head_weight.T + tuned.head_bias
    loss = functional.cross_entropy(logits, validation.labels)
    assert float(loss) == pytest.approx(tuned.best.validation_loss, rel=1e-4)
    right = (logits.argmax(1) == validation.labels).double().mean()
    assert float(right) == pytest.approx(tuned.best.validation_accuracy)


def test_it_starts_from_the_head_it_is_given(vit: PromptedViT, toy_task: ToyTask) -> None:
    train, validation = toy_task(64, seed=1), toy_task(64, seed=2)
    prompt = start_prompt()
    (features,) = extract_features(vit, train.pixels, [prompt], batch_size=32)
    head = fit_class_head(features, train.labels, 2)

    tuned = tune_prompt(
        vit,
        prompt,
        train,
        validation,
        num_classes=2,
        config=FAST,
        initial_head=head,
    )

    (held_out,) = extract_features(vit, validation.pixels, [prompt], batch_size=32)
    loss = functional.cross_entropy(head.logits(held_out), validation.labels)
    assert tuned.epochs[0].validation_loss == pytest.approx(float(loss), rel=1e-4)


def test_without_a_head_it_starts_undecided(vit: PromptedViT, toy_task: ToyTask) -> None:
    tuned = tune(vit, toy_task, FAST)

    assert tuned.epochs[0].validation_loss == pytest.approx(0.6931, abs=1e-4)


def test_the_best_epoch_is_returned_and_the_start_is_one_of_them(
    vit: PromptedViT, toy_task: ToyTask
) -> None:
    train, prompt = toy_task(64, seed=1), start_prompt()
    (features,) = extract_features(vit, train.pixels, [prompt], batch_size=32)
    head = fit_class_head(features, train.labels, 2)
    wild = TuningConfig(epochs=9, prompt_learning_rate=5.0, head_learning_rate=5.0, patience=3)

    tuned = tune_prompt(
        vit,
        prompt,
        train,
        toy_task(64, seed=2),
        num_classes=2,
        config=wild,
        initial_head=head,
    )

    # Every step made it worse, so it gave up after three epochs and nothing has changed.
    assert [epoch.epoch for epoch in tuned.epochs] == [0, 1, 2, 3]
    assert tuned.best == tuned.epochs[0]
    assert torch.equal(tuned.prompt, prompt)
    torch.testing.assert_close(tuned.head_weight.double(), head.weight, rtol=1e-4, atol=1e-5)


def test_what_a_later_epoch_spoils_is_not_returned(vit: PromptedViT, toy_task: ToyTask) -> None:
    train, validation = toy_task(24, seed=1), toy_task(64, seed=2)
    overfitting = TuningConfig(
        epochs=10, prompt_learning_rate=0.1, head_learning_rate=0.1, patience=10
    )

    tuned = tune_prompt(vit, start_prompt(), train, validation, num_classes=2, config=overfitting)

    losses = [epoch.validation_loss for epoch in tuned.epochs]
    assert 0 < tuned.best.epoch < 10
    assert tuned.best.validation_loss == min(losses) < losses[-1]
    (features,) = extract_features(vit, validation.pixels, [tuned.prompt], batch_size=32)
    logits = features @ tuned.head_weight.T + tuned.head_bias
    loss = functional.cross_entropy(logits, validation.labels)
    assert float(loss) == pytest.approx(min(losses), rel=1e-4)


def test_calibrated_epochs_are_compared_whatever_their_temperature(
    vit: PromptedViT, toy_task: ToyTask
) -> None:
    train, validation, prompt = toy_task(64, seed=1), toy_task(64, seed=2), start_prompt()
    features, held_out = (
        extract_features(vit, data.pixels, [prompt], batch_size=32)[0]
        for data in (train, validation)
    )
    head = fit_class_head(features, train.labels, 2)
    logits = head.logits(held_out)

    def of_start(times: float, *, calibrated: bool) -> float:
        scaled = replace(head, weight=times * head.weight, bias=times * head.bias)
        config = replace(FAST, epochs=1, calibrated=calibrated)
        return start_loss(vit, prompt, train, validation, config, scaled)

    best = calibrate(logits, validation.labels, torch.arange(2))[1]
    assert of_start(20.0, calibrated=True) == pytest.approx(best, rel=1e-3)
    assert of_start(0.5, calibrated=True) == pytest.approx(best, rel=1e-3)
    too_confident = float(functional.cross_entropy(20 * logits, validation.labels))
    assert of_start(20.0, calibrated=False) == pytest.approx(too_confident, rel=1e-3)
    assert too_confident > 1.3 * best


def start_loss(
    vit: PromptedViT,
    prompt: Tensor,
    train: LabelledPixels,
    validation: LabelledPixels,
    config: TuningConfig,
    head: ClassHead,
) -> float:
    """The validation log-loss of epoch 0."""
    tuned = tune_prompt(
        vit, prompt, train, validation, num_classes=2, config=config, initial_head=head
    )
    return tuned.epochs[0].validation_loss


def test_of_epochs_that_are_equally_good_the_first_is_returned(
    vit: PromptedViT, toy_task: ToyTask
) -> None:
    still = TuningConfig(epochs=5, prompt_learning_rate=0.0, head_learning_rate=0.0, patience=2)

    tuned = tune(vit, toy_task, still)

    assert len({epoch.validation_loss for epoch in tuned.epochs}) == 1
    assert tuned.best.epoch == 0
    assert len(tuned.epochs) == 3  # two were no better


def test_both_rates_rise_to_their_peaks_and_fall_to_zero_along_a_cosine(
    vit: PromptedViT, toy_task: ToyTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[torch.optim.Optimizer] = []
    rates: list[tuple[float, float]] = []
    make = prompt_tuning._optimizer

    def spy(*arguments: Any) -> torch.optim.Optimizer:
        made.append(make(*arguments))
        return made[0]

    def loss(logits: Tensor, labels: Tensor, rows: Tensor) -> Tensor:
        of_prompt, of_head = (group["lr"] for group in made[0].param_groups)
        rates.append((of_prompt, of_head))
        return cross_entropy(logits, labels, rows)

    monkeypatch.setattr(prompt_tuning, "_optimizer", spy)

    tune_prompt(
        vit,
        start_prompt(),
        toy_task(40, seed=1),  # three steps an epoch, the last of 8 images
        toy_task(20, seed=2),
        num_classes=2,
        config=TuningConfig(
            epochs=5,
            batch_size=16,
            prompt_learning_rate=0.02,
            head_learning_rate=0.3,
            warmup_epochs=2.0,
            patience=5,
        ),
        loss_function=loss,
    )

    shares = [step / 6 for step in range(1, 7)]
    shares += [0.5 * (1 + math.cos(math.pi * step / 9)) for step in range(9)]
    assert [of_prompt for of_prompt, _ in rates] == pytest.approx([0.02 * s for s in shares])
    assert [of_head for _, of_head in rates] == pytest.approx([0.3 * s for s in shares])


def test_steps_are_those_of_gradient_descent_with_momentum_and_decay(
    vit: PromptedViT, toy_task: ToyTask
) -> None:
    train, start = toy_task(12, seed=1), start_prompt()
    (features,) = extract_features(vit, train.pixels, [start], batch_size=6)
    center, scale = features.mean(0), features.std(0, correction=0)
    leaves = [start, torch.zeros(2, 32), torch.zeros(2)]
    velocities = [torch.zeros_like(leaf) for leaf in leaves]
    order = torch.Generator().manual_seed(7)
    batches = [rows for _ in range(2) for rows in torch.randperm(12, generator=order).split(6)]
    for rows, share in zip(batches, (1.0, 1.0, 0.75, 0.25), strict=True):
        prompt, weight, bias = (leaf.clone().requires_grad_() for leaf in leaves)
        logits = (vit(train.pixels[rows], prompt) - center) / scale @ weight.T + bias
        loss = functional.cross_entropy(logits, train.labels[rows])
        gradients = torch.autograd.grad(loss, (prompt, weight, bias))
        for i, rate in enumerate((0.05, 0.1, 0.1)):
            velocities[i] = 0.9 * velocities[i] + gradients[i] + 0.3 * leaves[i]
            leaves[i] = leaves[i] - rate * share * velocities[i]

    tuned = tune_prompt(
        vit,
        start,
        train,
        train,
        num_classes=2,
        config=TuningConfig(
            epochs=2,
            batch_size=6,
            optimizer="sgd",
            prompt_learning_rate=0.05,
            head_learning_rate=0.1,
            weight_decay=0.3,
            warmup_epochs=0.5,
            seed=7,
        ),
    )

    assert tuned.best.epoch == 2
    torch.testing.assert_close(tuned.prompt, leaves[0], rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(tuned.head_weight, leaves[1] / scale, rtol=1e-3, atol=1e-5)


def test_weights_decay_under_adamw_too(vit: PromptedViT, toy_task: ToyTask) -> None:
    free, decayed = (
        tune(vit, toy_task, replace(FAST, epochs=2, weight_decay=decay)) for decay in (0.0, 2.0)
    )

    assert decayed.prompt.norm() < 0.95 * free.prompt.norm()


def test_the_training_loss_is_the_mean_over_the_images(vit: PromptedViT, toy_task: ToyTask) -> None:
    """Also where the last batch is smaller than the others."""
    losses: list[Tensor] = []

    def loss(logits: Tensor, labels: Tensor, rows: Tensor) -> Tensor:
        losses.append(functional.cross_entropy(logits, labels, reduction="none").detach())
        return cross_entropy(logits, labels, rows)

    tuned = tune_prompt(
        vit,
        start_prompt(),
        toy_task(35, seed=1),
        toy_task(20, seed=2),
        num_classes=2,
        config=replace(FAST, epochs=1),
        loss_function=loss,
    )

    assert [len(of_batch) for of_batch in losses] == [32, 3]
    assert tuned.epochs[1].train_loss == pytest.approx(float(torch.cat(losses).mean()), rel=1e-5)


def test_training_images_that_are_all_the_same_give_finite_losses(
    vit: PromptedViT, toy_task: ToyTask
) -> None:
    """Their features have no spread to scale by."""
    task = toy_task(24, seed=1)
    same = LabelledPixels(task.pixels[:1].expand_as(task.pixels), task.labels)

    tuned = tune_prompt(
        vit,
        start_prompt(),
        same,
        toy_task(20, seed=2),
        num_classes=2,
        config=replace(FAST, epochs=2),
    )

    assert all(math.isfinite(epoch.validation_loss) for epoch in tuned.epochs)


def test_every_epoch_is_told_as_it_ends(vit: PromptedViT, toy_task: ToyTask) -> None:
    told: list[Epoch] = []

    tuned = tune_prompt(
        vit,
        start_prompt(),
        toy_task(40, seed=1),
        toy_task(20, seed=2),
        num_classes=2,
        config=FAST,
        on_epoch=told.append,
    )

    assert [epoch.epoch for epoch in told] == list(range(7))
    assert [epoch.validation_loss for epoch in told] == [e.validation_loss for e in tuned.epochs]
    assert tuned.best == min(told, key=lambda epoch: epoch.validation_loss)
    losses = [epoch.train_loss for epoch in told]
    assert losses[0] is None
    assert losses[-1] is not None
    assert losses[1] is not None
    assert losses[-1] < losses[1] < 0.7


@pytest.mark.parametrize(
    ("asks", "where"),
    [
        (0, "after 0 of 64 forward passes"),  # of the training images
        (2, "after 0 of 20 forward passes"),  # of the validation images
        (3, "in epoch 1 of 6"),
        (5, "after 0 of 20 forward passes"),
        (8, "after 0 of 20 forward passes"),
        (9, "in epoch 3 of 6"),
    ],
)
def test_it_stops_between_two_steps_or_passes(
    vit: PromptedViT, toy_task: ToyTask, asks: int, where: str
) -> None:
    asked = 0

    def should_stop() -> bool:
        nonlocal asked
        asked += 1
        return asked > asks

    with pytest.raises(FitStoppedError, match=where):
        tune_prompt(
            vit,
            start_prompt(),
            toy_task(64, seed=1),
            toy_task(20, seed=2),
            num_classes=2,
            config=FAST,
            should_stop=should_stop,
        )


def test_the_seed_decides_the_order_and_nothing_else_is_random(
    vit: PromptedViT, toy_task: ToyTask
) -> None:
    first, second, other = (tune(vit, toy_task, FAST, seed) for seed in (3, 3, 4))

    assert torch.equal(first.prompt, second.prompt)
    assert torch.equal(first.head_weight, second.head_weight)
    assert torch.equal(first.head_bias, second.head_bias)
    assert not torch.equal(first.prompt, other.prompt)


def test_the_start_and_the_backbone_are_left_as_they_are(
    vit: PromptedViT, toy_task: ToyTask
) -> None:
    before = {name: value.clone() for name, value in vit.state_dict().items()}
    start = start_prompt()

    tuned = tune_prompt(
        vit,
        start,
        toy_task(40, seed=1),
        toy_task(20, seed=2),
        num_classes=2,
        config=FAST,
    )

    assert torch.equal(start, start_prompt())
    assert not torch.equal(tuned.prompt, start)
    assert all(torch.equal(value, before[name]) for name, value in vit.state_dict().items())
    assert not tuned.prompt.requires_grad
