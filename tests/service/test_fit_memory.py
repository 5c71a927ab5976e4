import json
from dataclasses import replace
from pathlib import Path

import pytest

from backbones.info import BackboneInfo
from ensemble.fit_session import BATCH_SIZE
from images.preprocessing import Preprocessing
from service.fit_memory import ROWS_OF_A_PASS, fit_bytes
from service.settings import ServiceSettings

MEASURED = Path(__file__).parents[2] / "benchmarks/fit_speed/fit_speed-11-sources.json"
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
    }
    return fit_bytes(backbone or vit_b(image_size_px), **{**usual, **fields})


def test_it_agrees_with_what_was_measured() -> None:
    peak = json.loads(MEASURED.read_text())["peak_rss_mib"]
    assert needed(96) == pytest.approx((peak["after"] - peak["before"]) * 2**20, rel=0.02)


def test_ordinary_fits_are_within_the_default() -> None:
    assert needed() < LIMIT / 2
    assert needed(num_sources=1024, num_kept=16, num_prompt_tokens=50) < LIMIT


def test_a_larger_backbone_is_not_refused_as_such() -> None:
    vit_l = replace(vit_b(224), embed_dim=1024, depth=24)
    assert needed(backbone=vit_l) < LIMIT


def test_many_long_prompts_are_not() -> None:
    assert needed(num_images=10, num_sources=100, num_kept=100, num_prompt_tokens=512) > 20e9


def test_a_pass_has_as_many_rows_as_the_fits_have() -> None:
    assert ROWS_OF_A_PASS == BATCH_SIZE
