"""The inputs of one fit and what its methods have in common."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ensemble.candidates import Candidate
from ensemble.class_head import ClassHead, fit_class_head
from ensemble.errors import FitStoppedError
from ensemble.features import FeatureExtractor
from ensemble.leaderboard import standing
from ensemble.options import FitOptions, Method
from ensemble.progress import ProgressCallback
from ensemble.prompt_tuning import LabelledPixels
from ensemble.prompted_vit import PromptedViT

BATCH_SIZE = 32


@dataclass(frozen=True)
class Sources:
    """Source prompts (M, L, P, D) as stored, and with their tokens aligned for averaging."""

    stored: Tensor
    aligned: Tensor

    def __len__(self) -> int:
        """M."""
        return len(self.stored)


@dataclass
class FitSession:
    """Images, sources, options and callbacks of one fit, with the seconds spent in each stage."""

    vit: PromptedViT
    pixels: Tensor
    labels: Tensor
    num_classes: int
    options: FitOptions
    seed: int
    progress: ProgressCallback
    should_stop: Callable[[], bool]
    extract: FeatureExtractor
    train_rows: Tensor
    validation_rows: Tensor
    sources: Sources
    timings_s: dict[str, float] = field(default_factory=dict)

    @property
    def no_prompt(self) -> Tensor:
        """The empty prompt (1, 0, D)."""
        return torch.zeros(1, 0, self.vit.embed_dim)

    @property
    def train(self) -> LabelledPixels:
        """The images that weights and prompts are learned from."""
        return LabelledPixels(self.pixels[self.train_rows], self.labels[self.train_rows])

    @property
    def validation(self) -> LabelledPixels:
        """The images that choose among candidates and epochs."""
        return LabelledPixels(self.pixels[self.validation_rows], self.labels[self.validation_rows])

    def features_of(
        self, stage: str, prompts: Sequence[Tensor | None], rows: Tensor | None = None
    ) -> list[Tensor]:
        """Features (N, D) of all images, or of `rows`, under each prompt, one stage for all."""
        pixels = self.pixels if rows is None else self.pixels[rows]
        total, done = len(prompts) * len(pixels), 0

        def on_batch(num_images: int) -> None:
            nonlocal done
            done += num_images
            self.progress(stage, done, total)

        self.progress(stage, 0, total)
        with self.timed(stage):
            return self.extract(
                self.vit,
                pixels,
                prompts,
                batch_size=BATCH_SIZE,
                on_batch=on_batch,
                should_stop=self.should_stop,
            )

    def train_head(self, features: Tensor) -> ClassHead:
        """Fit a class head on the training rows of features (N, D) alone."""
        rows = self.train_rows
        return fit_class_head(features[rows], self.labels[rows], self.num_classes)

    def candidate(
        self,
        method: Method,
        weights: Tensor,
        prompt: Tensor,
        features: Tensor,
        *,
        source: int | None = None,
        tuned: bool = False,
    ) -> Candidate:
        """Fit a head on all images and score its cross-fitted predictions held out.

        Raises:
            FitStoppedError: As `checkpoint`; with many images and classes a head takes a while.
        """
        self.checkpoint()
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
