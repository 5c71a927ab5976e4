"""The target's own prompt after a few steps, as an embedding of the task; and its neighbours."""

import math

from torch import Tensor
from torch.nn import functional

from ensemble.fit_session import BATCH_SIZE, FitSession
from ensemble.methods.vpt import random_prompt
from ensemble.prompt_tuning import TuningConfig, tune_prompt

NUM_STEPS = 50
"""Gradient steps on the target before its prompt is compared: about this many, in whole epochs.

One epoch is more with over 1,600 images.
"""


def target_prompt(fit: FitSession) -> Tensor:
    """Return the target's own prompt (L, P, D), tuned for some `NUM_STEPS` steps.

    From a random start and a zero head: with a fitted head the training loss is small at once and
    the prompt hardly moves, and it is the prompt's movement that tells the task. The epoch is kept
    whose training loss is the lowest: weights follow from this prompt, so the held-out images may
    have no say in it.
    """
    epochs = max(1, round(NUM_STEPS / math.ceil(len(fit.train_rows) / BATCH_SIZE)))
    fit.progress("task embedding", 0, epochs)
    config = TuningConfig(
        epochs=epochs,
        batch_size=BATCH_SIZE,
        prompt_learning_rate=fit.options.prompt_learning_rate,
        patience=epochs,
        seed=fit.seed,
    )
    with fit.timed("task embedding"):
        found = tune_prompt(
            fit.vit,
            random_prompt(fit),
            fit.train,
            fit.train,
            num_classes=fit.num_classes,
            config=config,
            on_epoch=lambda epoch: fit.progress("task embedding", epoch.epoch, epoch.epochs),
            should_stop=fit.should_stop,
        )
    return found.prompt.cpu()


def prompt_similarities(target: Tensor, sources: Tensor) -> Tensor:
    """Return the mean cosine of all pairs of tokens of a layer, averaged over layers, (M,).

    SPoT's per-token similarity (Vu et al. 2022, section 4), the better of its two: no order of
    the tokens is assumed.

    Args:
        target: (L, P, D).
        sources: (M, L, P, D).
    """
    of_target = functional.normalize(target.double(), dim=-1).mean(-2)  # (L, D)
    of_sources = functional.normalize(sources.double(), dim=-1).mean(-2)  # (M, L, D)
    return (of_sources * of_target).sum(-1).mean(-1)
