"""A task, sources of which the second knows it, and a session of both as a method gets it."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from ensemble.composition import align_tokens, stack_prompts
from ensemble.features import extract_features
from ensemble.fit_result import FitResult
from ensemble.fit_session import FitSession, Sources
from ensemble.fitting import fit_ensemble
from ensemble.methods import target_prompt
from ensemble.options import FitOptions
from ensemble.progress import ProgressCallback, ignore_progress
from ensemble.prompt_tuning import LabelledPixels
from ensemble.prompted_vit import PromptedViT
from ensemble.splits import stratified_split


@pytest.fixture(scope="session")
def sources(trained_source: Tensor) -> list[Tensor]:
    """Five source prompts (3, 4, 32); the second was trained on the toy task."""
    generator = torch.Generator().manual_seed(3)
    others = [torch.randn(trained_source.shape, generator=generator) for _ in range(4)]
    return [others[0], trained_source, *others[1:]]


@pytest.fixture(scope="session")
def images(toy_task: Callable[..., LabelledPixels]) -> LabelledPixels:
    return toy_task(80, seed=20)


@pytest.fixture
def few(images: LabelledPixels) -> LabelledPixels:
    """Enough to run every stage, and soon done."""
    return LabelledPixels(images.pixels[:24], images.labels[:24])


@pytest.fixture
def short_embedding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare the target's prompt after a few steps: as it is done, but soon."""
    monkeypatch.setattr(target_prompt, "NUM_STEPS", 4)


@pytest.fixture
def make_session(
    vit: PromptedViT, sources: list[Tensor], images: LabelledPixels
) -> Callable[..., FitSession]:
    """Make a session of 56 training and 24 held-out images."""

    def make(
        options: FitOptions | None = None,
        *,
        sources: Sequence[Tensor] = sources,
        images: LabelledPixels = images,
        seed: int = 0,
        progress: ProgressCallback = ignore_progress,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> FitSession:
        options = options or FitOptions()
        stored = stack_prompts(sources) if sources else torch.zeros(0, 1, 1, vit.embed_dim)
        aligned = align_tokens(stored) if options.align and len(stored) else stored
        train, held_out = stratified_split(images.labels, options.validation_fraction, seed)
        return FitSession(
            vit=vit,
            pixels=images.pixels,
            labels=images.labels,
            num_classes=2,
            options=options,
            seed=seed,
            progress=progress,
            should_stop=should_stop,
            extract=extract_features,
            train_rows=train,
            validation_rows=held_out,
            sources=Sources(stored, aligned),
        )

    return make


@pytest.fixture
def fit(
    vit: PromptedViT, sources: list[Tensor], images: LabelledPixels
) -> Callable[..., FitResult]:
    """Fit with the usual inputs, but for those that a test gives."""

    def run(**changes: Any) -> FitResult:
        usual: dict[str, Any] = {"sources": sources, "images": images, "num_classes": 2}
        return fit_ensemble(vit, **(usual | changes))

    return run
