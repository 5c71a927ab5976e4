"""The inputs of one fit and what its stages have in common."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from ensemble.class_head import ClassHead, fit_class_head
from ensemble.errors import FitStoppedError
from ensemble.features import extract_features
from ensemble.leaderboard import Standing, standing
from ensemble.options import FitOptions, Method
from ensemble.prompted_vit import PromptedViT

BATCH_SIZE = 32


class ProgressCallback(Protocol):
    """Told how far a fit is; stages come in the order of `ensemble.fitting`'s docstring."""

    def __call__(
        self,
        stage: str,
        step: int,
        total: int,
        *,
        weights: Sequence[float] | None = None,
        objective: float | None = None,
    ) -> None:
        """Report `step` of `total` of a stage."""
        ...


def ignore_progress(
    stage: str,
    step: int,
    total: int,
    *,
    weights: Sequence[float] | None = None,
    objective: float | None = None,
) -> None:
    """A `ProgressCallback` that nobody listens to."""
    del stage, step, total, weights, objective


@dataclass(frozen=True)
class Candidate:
    """A way to make the prompt, its features (N, D), its head and its place on the leaderboard."""

    standing: Standing
    weights: Tensor
    prompt: Tensor
    features: Tensor
    head: ClassHead


@dataclass
class FitSession:
    """Images, options and callbacks of one fit, with the seconds spent in each stage."""

    vit: PromptedViT
    pixels: Tensor
    labels: Tensor
    num_classes: int
    options: FitOptions
    seed: int
    progress: ProgressCallback
    should_stop: Callable[[], bool]
    train_rows: Tensor
    validation_rows: Tensor
    timings_s: dict[str, float] = field(default_factory=dict)

    @property
    def no_prompt(self) -> Tensor:
        """The empty prompt (1, 0, D)."""
        return torch.zeros(1, 0, self.vit.embed_dim)

    def features_of(self, stage: str, prompts: Sequence[Tensor | None]) -> list[Tensor]:
        """Features (N, D) of all images under each prompt, one stage for all."""
        total, done = len(prompts) * len(self.pixels), 0

        def on_batch(num_images: int) -> None:
            nonlocal done
            done += num_images
            self.progress(stage, done, total)

        self.progress(stage, 0, total)
        with self.timed(stage):
            return extract_features(
                self.vit,
                self.pixels,
                prompts,
                batch_size=BATCH_SIZE,
                on_batch=on_batch,
                should_stop=self.should_stop,
            )

    def candidate(
        self,
        method: Method,
        source: int | None,
        weights: Tensor,
        prompt: Tensor,
        features: Tensor,
        *,
        tuned: bool = False,
    ) -> Candidate:
        """Fit a head on all images and score its cross-fitted predictions held out."""
        with self.timed("head"):
            head = fit_class_head(features, self.labels, self.num_classes)
            rows = self.validation_rows
            place = standing(
                method, source, head.held_out_logits[rows], self.labels[rows], tuned=tuned
            )
        return Candidate(place, weights, prompt, features, head)

    def timed(self, stage: str) -> "Timer":
        """Return a `with` block whose seconds count to a stage."""
        return Timer(self.timings_s, stage)

    def checkpoint(self) -> None:
        """Raise `FitStoppedError` if the caller wants the fit to stop."""
        if self.should_stop():
            raise FitStoppedError("stopped between two stages")


class Timer:
    """Adds the seconds of a `with` block to a stage."""

    def __init__(self, timings_s: dict[str, float], stage: str) -> None:
        self.timings_s, self.stage = timings_s, stage

    def __enter__(self) -> None:
        self.started_s = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        elapsed_s = time.perf_counter() - self.started_s
        self.timings_s[self.stage] = self.timings_s.get(self.stage, 0.0) + elapsed_s
