"""Visual prompt tuning: train prompt tokens and a linear head, the backbone frozen.

Jia et al. 2022 (arXiv 2203.12119). The head starts at zero, or where the caller says: to tune a
composite prompt on few images it starts from the closed-form fit (linear probe, then tune: Kumar
et al. 2022, arXiv 2202.10054); to train a source prompt from nothing it does not, because a head
that already separates the training images leaves the prompt no error to learn from.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from ensemble.class_head import ClassHead, calibrate
from ensemble.errors import FitStoppedError
from ensemble.features import extract_features
from ensemble.prompted_vit import PromptedViT


@dataclass(frozen=True)
class TuningConfig:
    """How a prompt is tuned.

    Attributes:
        epochs: Passes over the training images, at most.
        batch_size: Images a step.
        optimizer: "adamw" or "sgd" (momentum 0.9).
        prompt_learning_rate: Peak learning rate of the prompt tokens.
        head_learning_rate: Peak learning rate of the head, on features scaled to unit spread.
        weight_decay: Of prompt and head.
        warmup_epochs: Linear warm-up before the cosine decay to zero.
        patience: Epochs without a better validation log-loss before stopping early.
        seed: Of the order of the images.
        calibrated: Compare epochs by the validation log-loss at each one's best temperature: for
            whoever fits a calibrated head to the prompt afterwards. Otherwise that of the logits
            as they are.
    """

    epochs: int = 12
    batch_size: int = 32
    optimizer: Literal["adamw", "sgd"] = "adamw"
    prompt_learning_rate: float = 0.001
    head_learning_rate: float = 0.01
    weight_decay: float = 1e-4
    warmup_epochs: float = 1.0
    patience: int = 6
    seed: int = 0
    calibrated: bool = False


@dataclass(frozen=True)
class LabelledPixels:
    """Images ready for the backbone: pixels (N, 3, H, W) uint8 and labels (N,) int64."""

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Epoch:
    """What one epoch of tuning reports: losses in nats, accuracy in [0, 1].

    Epoch 0 is the start, before any step, so it has no training loss.
    """

    epoch: int
    epochs: int
    train_loss: float | None
    validation_loss: float
    validation_accuracy: float


class TuningLoss(Protocol):
    """The loss of a batch, in nats."""

    def __call__(self, logits: Tensor, labels: Tensor, rows: Tensor) -> Tensor:
        """Return the mean loss of logits (B, C) of the training images `rows` (B,)."""
        ...


def cross_entropy(logits: Tensor, labels: Tensor, rows: Tensor) -> Tensor:
    """Return the mean cross-entropy of logits (B, C) and labels (B,)."""
    del rows
    return functional.cross_entropy(logits, labels)


@dataclass(frozen=True)
class TunedPrompt:
    """The best epoch's prompt (L, P, D) and head (C, D), (C,), and all epochs' reports."""

    prompt: Tensor
    head_weight: Tensor
    head_bias: Tensor
    best: Epoch
    epochs: tuple[Epoch, ...]


def tune_prompt(
    vit: PromptedViT,
    prompt: Tensor,
    train: LabelledPixels,
    validation: LabelledPixels,
    *,
    num_classes: int,
    config: TuningConfig,
    initial_head: ClassHead | None = None,
    loss_function: TuningLoss = cross_entropy,
    on_epoch: Callable[[Epoch], None] = lambda _: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> TunedPrompt:
    """Tune `prompt` and a head on `train`; return the epoch with the best validation log-loss.

    Epoch 0 is the start itself, so tuning never returns worse than it by that measure. A head that
    is not given starts at zero.

    Raises:
        FitStoppedError: `should_stop` became true between two steps.
    """
    device = vit.device
    (features,) = extract_features(
        vit, train.pixels, [prompt], batch_size=config.batch_size, should_stop=should_stop
    )
    # The head is trained in units of each feature's spread, so that one learning rate fits all.
    scale = features.std(0, correction=0).clamp_min(1e-6).to(device)  # (D,)
    center = features.mean(0).to(device)  # (D,)
    prompt = prompt.to(device, torch.float32).clone().requires_grad_()
    weight = torch.zeros(num_classes, vit.embed_dim, device=device)
    bias = torch.zeros(num_classes, device=device)
    if initial_head is not None:
        weight = initial_head.weight.to(device).float() * scale
        bias = (
            initial_head.bias.to(device).float() + initial_head.weight.to(device).float() @ center
        )
    weight.requires_grad_()
    bias.requires_grad_()

    def classify(features: Tensor) -> Tensor:
        return (features - center) / scale @ weight.T + bias

    optimizer = _optimizer(prompt, weight, bias, config)
    steps_per_epoch = math.ceil(len(train) / config.batch_size)
    schedule = _warmup_cosine(optimizer, steps_per_epoch, config)
    order = torch.Generator().manual_seed(config.seed)
    classes = train.labels.unique().to(device)

    def report(epoch: int, train_loss: float | None) -> Epoch:
        (features,) = extract_features(
            vit,
            validation.pixels,
            [prompt.detach()],
            batch_size=config.batch_size,
            should_stop=should_stop,
        )
        with torch.no_grad():
            logits = classify(features.to(device))
        labels = validation.labels.to(device)
        loss = _log_loss(logits, labels, classes, config)
        accuracy = float((logits.argmax(1) == labels).float().mean())
        done = Epoch(epoch, config.epochs, train_loss, loss, accuracy)
        on_epoch(done)
        return done

    def snapshot() -> tuple[Tensor, Tensor, Tensor]:
        raw_weight = weight.detach() / scale
        return prompt.detach().clone(), raw_weight, bias.detach() - raw_weight @ center

    epochs = [report(0, None)]
    best, kept = epochs[0], snapshot()
    for epoch in range(1, config.epochs + 1):
        total = 0.0
        for rows in torch.randperm(len(train), generator=order).split(config.batch_size):
            if should_stop():
                raise FitStoppedError(f"stopped in epoch {epoch} of {config.epochs}")
            logits = classify(vit(train.pixels[rows].to(device), prompt))
            loss = loss_function(logits, train.labels[rows].to(device), rows)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += float(loss.detach()) * len(rows)
        epochs.append(report(epoch, total / len(train)))
        if epochs[-1].validation_loss < best.validation_loss:
            best, kept = epochs[-1], snapshot()
        if epoch - best.epoch >= config.patience:
            break
    return TunedPrompt(*kept, best=best, epochs=tuple(epochs))


def _log_loss(logits: Tensor, labels: Tensor, classes: Tensor, config: TuningConfig) -> float:
    """Validation log-loss in nats by which epochs are compared; see `TuningConfig.calibrated`."""
    if config.calibrated:
        return calibrate(logits.double(), labels, classes)[1]
    return float(functional.cross_entropy(logits, labels))


def _optimizer(
    prompt: Tensor, weight: Tensor, bias: Tensor, config: TuningConfig
) -> torch.optim.Optimizer:
    groups = [
        {"params": [prompt], "lr": config.prompt_learning_rate},
        {"params": [weight, bias], "lr": config.head_learning_rate},
    ]
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=0.9, weight_decay=config.weight_decay)
    return torch.optim.AdamW(groups, weight_decay=config.weight_decay)


def _warmup_cosine(
    optimizer: torch.optim.Optimizer, steps_per_epoch: int, config: TuningConfig
) -> torch.optim.lr_scheduler.LRScheduler:
    total = max(1, config.epochs * steps_per_epoch)
    warmup = min(max(1, round(config.warmup_epochs * steps_per_epoch)), total)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
