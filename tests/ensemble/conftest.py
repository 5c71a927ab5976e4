"""A random backbone small enough that a forward pass takes a millisecond, and toy images."""

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from ensemble.prompt_tuning import LabelledPixels, TuningConfig, tune_prompt
from ensemble.prompted_vit import PromptedViT, init_prompt

IMAGE_SIZE_PX = 16
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
MakeViT = Callable[..., PromptedViT]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def build_vit(name: str = "vit_tiny_patch16_224", **arguments: Any) -> PromptedViT:
    """A timm ViT with every parameter random, also those that timm sets to 0 or 1."""
    sizes: dict[str, Any] = {"img_size": IMAGE_SIZE_PX, "patch_size": 4, "depth": 3}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        sizes |= {"embed_dim": 32, "num_heads": 2, **arguments}
        vit = timm.create_model(name, num_classes=0, **sizes)
        for parameter in vit.parameters():
            parameter.data += 0.2 * torch.randn_like(parameter)
    return PromptedViT(vit, mean=MEAN, std=STD)


@pytest.fixture(scope="session")
def make_vit() -> MakeViT:
    return build_vit


@pytest.fixture(scope="session")
def vit() -> PromptedViT:
    return build_vit()


@pytest.fixture
def pixels() -> Tensor:
    """Eight images (8, 3, 16, 16), uint8."""
    generator = torch.Generator().manual_seed(1)
    shape = (8, 3, IMAGE_SIZE_PX, IMAGE_SIZE_PX)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


@pytest.fixture(scope="session")
def toy_task() -> Callable[..., LabelledPixels]:
    """Make noisy images of two classes: do two quarters of the image have the same brightness?

    Plain features classify 0.8 of them, those under a prompt trained for it 0.95.
    """

    def make(num_images: int, *, seed: int = 0) -> LabelledPixels:
        generator = torch.Generator().manual_seed(seed)
        labels = torch.arange(num_images) % 2
        shape = (num_images, 3, IMAGE_SIZE_PX, IMAGE_SIZE_PX)
        pixels = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
        bright = torch.randint(0, 2, (num_images,), generator=generator)
        for image, one, label in zip(pixels, bright.tolist(), labels.tolist(), strict=True):
            image[:, :8, :8] = image[:, :8, :8] // 4 + (150 if one else 20)
            image[:, 8:, 8:] = image[:, 8:, 8:] // 4 + (150 if one ^ label else 20)
        return LabelledPixels(pixels, labels)

    return make


@pytest.fixture(scope="session")
def trained_source(vit: PromptedViT, toy_task: Callable[..., LabelledPixels]) -> Tensor:
    """A prompt (3, 4, 32) that was trained on images of the toy task that no test uses."""
    start = init_prompt(
        3, 4, vit.embed_dim, patch_size_px=4, generator=torch.Generator().manual_seed(0)
    )
    tuned = tune_prompt(
        vit,
        start,
        toy_task(160, seed=1000),
        toy_task(80, seed=1001),
        num_classes=2,
        config=TuningConfig(epochs=10, prompt_learning_rate=0.05, head_learning_rate=0.05),
    )
    return tuned.prompt


@pytest.fixture
def make_prompts(vit: PromptedViT) -> Callable[..., list[Tensor]]:
    """Make M random source prompts (L, P, D), deep by default."""

    def make(
        num_sources: int, num_tokens: int = 3, num_layers: int | None = None, *, seed: int = 0
    ) -> list[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        shape = (num_layers or vit.depth, num_tokens, vit.embed_dim)
        return [torch.randn(shape, generator=generator) for _ in range(num_sources)]

    return make
