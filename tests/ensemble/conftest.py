"""A random backbone small enough that a forward pass takes a millisecond, and toy images."""

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from ensemble.prompt_tuning import LabelledPixels
from ensemble.prompted_vit import PromptedViT

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
        vit = timm.create_model(
            name, num_classes=0, **(sizes | {"embed_dim": 32, "num_heads": 2} | arguments)
        )
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


@pytest.fixture
def toy_task() -> Callable[..., LabelledPixels]:
    """Make noisy images whose class is the colour of a stripe; balanced, class by class."""

    def make(num_images: int, num_classes: int = 2, *, seed: int = 0) -> LabelledPixels:
        generator = torch.Generator().manual_seed(seed)
        labels = torch.arange(num_images) % num_classes
        shape = (num_images, 3, IMAGE_SIZE_PX, IMAGE_SIZE_PX)
        pixels = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
        for row, label in enumerate(labels.tolist()):
            pixels[row, label % 3, 4:12, :8] //= 4
        return LabelledPixels(pixels, labels)

    return make


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
