from dataclasses import replace

from backbones.info import BackboneInfo
from images.preprocessing import Preprocessing
from service.registry.fit_memory import fit_bytes
from service.settings import ServiceSettings

LIMIT = ServiceSettings.model_fields["max_fit_bytes"].default


def vit_b(image_size_px: int) -> BackboneInfo:
    preprocessing = Preprocessing(
        image_size_px=image_size_px,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        interpolation="bicubic",
        crop_pct=0.9,
        crop_mode="center",
    )
    return BackboneInfo("vit-b", "sha256:0", 768, 12, 1, 16, preprocessing, "fp32")


def needed(image_size_px: int = 224, backbone: BackboneInfo | None = None, **fields: int) -> int:
    usual = {
        "num_images": 1000,
        "num_classes": 10,
        "num_sources": 11,
        "num_kept": 11,
        "num_prompt_tokens": 10,
        "prompt_depth": 12,
        "learns_weights": True,
    }
    return fit_bytes(backbone or vit_b(image_size_px), **{**usual, **fields})


def test_ordinary_fits_are_within_the_default() -> None:
    assert needed() < LIMIT / 8
    assert needed(num_sources=1024, num_kept=16, num_prompt_tokens=50) < LIMIT / 2


def test_no_backbone_is_refused_as_such() -> None:
    vit_h = replace(vit_b(518), embed_dim=1280, depth=32)
    assert needed(backbone=vit_h, num_images=100, prompt_depth=32) < LIMIT / 8


def test_many_long_prompts_are_too_much_where_their_weights_are_learned() -> None:
    many = {"num_images": 10, "num_sources": 100, "num_kept": 100, "num_prompt_tokens": 512}
    assert needed(**many) > 20e9
    assert needed(**many, learns_weights=False) < LIMIT
