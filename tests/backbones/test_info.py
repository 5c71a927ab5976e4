from dataclasses import replace

import pytest
import torch
from torch import Tensor

from backbones.digest import backbone_digest
from images.preprocessing import Preprocessing

ARCHITECTURE: dict[str, str | int] = {"timm": "vit_tiny_patch16_224", "depth": 2}
PREPROCESSING = Preprocessing(
    image_size_px=32,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    interpolation="bicubic",
    crop_pct=0.9,
    crop_mode="center",
)


def weights() -> dict[str, Tensor]:
    return {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor([1.5])}


def digest_of(**changes: object) -> str:
    usual = {"architecture": ARCHITECTURE, "preprocessing": PREPROCESSING, "weights": weights()}
    return backbone_digest(**{**usual, **changes})  # pyright: ignore[reportArgumentType]


def test_the_digest_is_stable() -> None:
    """A prompt names this digest, so it must not change with a version of ours."""
    assert digest_of() == "sha256:bb4fb447732d8c3d81012932559a2465b36dda814d5ba8ec8a049603f130934c"


@pytest.mark.parametrize(
    "changes",
    [
        {"mean": (0.5, 0.5, 0.49)},
        {"std": (0.5, 0.49, 0.5)},
        {"image_size_px": 48},
        {"interpolation": "bilinear"},
        {"crop_pct": 1.0},
        {"crop_mode": "squash"},
    ],
)
def test_it_changes_with_the_preprocessing(changes: dict[str, object]) -> None:
    other = replace(PREPROCESSING, **changes)  # pyright: ignore[reportArgumentType]

    assert digest_of(preprocessing=other) != digest_of()


@pytest.mark.parametrize(
    "architecture", [{"timm": "vit_tiny_patch16_224", "depth": 3}, {"timm": "vit_tiny_patch16_224"}]
)
def test_it_changes_with_the_architecture(architecture: dict[str, str | int]) -> None:
    assert digest_of(architecture=architecture) != digest_of()


@pytest.mark.parametrize(
    "changes",
    [
        {"b": torch.tensor([1.5000001])},
        {"a": torch.arange(6.0).view(3, 2)},
        {"b": torch.tensor([1.5], dtype=torch.float64)},
        {"c": torch.tensor([1.5])},
        {"a": None},
        {"b": None, "c": torch.tensor([1.5])},
    ],
)
def test_it_changes_with_the_weights(changes: dict[str, Tensor | None]) -> None:
    changed = {name: tensor for name, tensor in (weights() | changes).items() if tensor is not None}

    assert digest_of(weights=changed) != digest_of()


def test_it_does_not_change_with_order_layout_or_gradients() -> None:
    turned = {"b": weights()["b"].requires_grad_(), "a": weights()["a"].T.contiguous().T}

    assert digest_of(weights=turned) == digest_of()
    assert digest_of(architecture=dict(reversed(ARCHITECTURE.items()))) == digest_of()
