import copy
import logging
from itertools import accumulate

import numpy as np
import pytest
import torch
from torch import nn

from backbones.errors import BackboneSpecError
from backbones.info import LoadedBackbone
from backbones.precision import in_precision
from backbones.settings import BackboneSettings
from service.inference import precision_probe
from service.inference.precision import (
    computes_bf16,
    load_serving_backbone,
    serving_backbone,
    suffices,
)
from service.inference.precision_probe import ProbeOutcome, compare, probe_images

TINY = "random:vit_tiny_patch16_224?seed=0&img_size=32&depth=2"


def with_fewer_bits(loaded: LoadedBackbone, bits: int) -> LoadedBackbone:
    """The backbone with the weights of its linear layers cut to so many bits of mantissa."""
    vit = copy.deepcopy(loaded.vit)
    for module in vit.modules():
        if isinstance(module, nn.Linear):
            step = 2.0 ** (module.weight.abs().clamp_min(1e-20).log2().floor() - bits)
            module.weight.data = (module.weight / step).round() * step
    return LoadedBackbone(loaded.info, vit)


def test_bf16_makes_the_decisions_of_fp32(loaded: LoadedBackbone) -> None:
    half = in_precision(loaded, "bf16")
    outcome = compare(loaded.vit, half.vit, image_size_px=loaded.info.image_size_px)
    assert outcome.agrees
    assert 0 < outcome.agreement <= 1
    assert outcome.speed_up > 0


def test_the_speed_up_is_that_of_the_fastest_passes(loaded: LoadedBackbone) -> None:
    since_the_last_s = [0.0, 4.0, 1.0, 0.0, 2.0, 9.0, 0.0, 5.0, 2.0, 0.0, 3.0, 8.0]  # of 4 batches
    readings = accumulate(since_the_last_s)
    size = loaded.info.image_size_px
    outcome = compare(loaded.vit, loaded.vit, image_size_px=size, clock=lambda: next(readings))
    assert outcome.speed_up == 2
    assert next(readings, None) is None


def test_the_probe_set_finds_what_is_too_little_precision(loaded: LoadedBackbone) -> None:
    size = loaded.info.image_size_px
    shares = [
        compare(loaded.vit, with_fewer_bits(loaded, bits).vit, image_size_px=size)
        for bits in (12, 2, 1)
    ]
    assert [share.agrees for share in shares] == [True, False, False]
    assert compare(loaded.vit, loaded.vit, image_size_px=size).agreement == 1


def test_the_probe_set_is_always_the_same_and_no_image_is_another() -> None:
    one, two = (probe_images(32, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(one, two)
    assert one.dtype == torch.uint8
    flat = one.flatten(1).float()
    assert torch.cdist(flat, flat).fill_diagonal_(1e9).min() > 500


def test_auto_takes_bf16_where_the_device_computes_in_it(
    loaded: LoadedBackbone, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(precision_probe, "MIN_SPEED_UP", 0.0)  # of a busy machine nothing is known
    caplog.set_level(logging.INFO)
    served = serving_backbone(loaded, "auto", has_bf16=lambda _: True)
    assert (served.info.dtype, served.info.digest) == ("bf16", loaded.info.digest)
    assert "serving in bf16" in caplog.text
    assert serving_backbone(loaded, "auto", has_bf16=lambda _: False) is loaded


@pytest.mark.parametrize(
    ("outcome", "dtype"),
    [
        (ProbeOutcome(agreement=1.0, speed_up=2.0), "bf16"),
        (ProbeOutcome(agreement=0.9, speed_up=2.0), "fp32"),
        (ProbeOutcome(agreement=1.0, speed_up=0.5), "fp32"),
    ],
)
def test_auto_falls_back_with_a_warning(
    loaded: LoadedBackbone,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    outcome: ProbeOutcome,
    dtype: str,
) -> None:
    monkeypatch.setattr("service.inference.precision.compare", lambda *_, **__: outcome)
    served = serving_backbone(loaded, "auto", has_bf16=lambda _: True)
    assert served.info.dtype == dtype
    warned = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert bool(warned) == (dtype == "fp32")


@pytest.mark.parametrize(
    ("agreement", "speed_up", "device", "taken"),
    [
        (1.0, 0.5, "cuda", True),
        (0.9, 2.0, "cuda", False),
        (1.0, 0.5, "cpu", False),
        (1.0, 2.0, "cpu", True),
    ],
)
def test_the_speed_of_eager_passes_decides_on_a_cpu_only(
    agreement: float, speed_up: float, device: str, taken: bool
) -> None:
    assert suffices(ProbeOutcome(agreement, speed_up), torch.device(device)) == taken


def test_a_precision_asked_for_by_name_is_taken(loaded: LoadedBackbone) -> None:
    assert serving_backbone(loaded, "fp32") is loaded
    assert serving_backbone(loaded, "bf16").info.dtype == "bf16"
    with pytest.raises(BackboneSpecError, match="HGPROMPT_SERVING_PRECISION=fp16 needs a GPU"):
        serving_backbone(loaded, "fp16")


def test_another_precision_leaves_the_backbone_as_it_was(loaded: LoadedBackbone) -> None:
    pixels = probe_images(32, torch.Generator().manual_seed(1))[:4]
    before = loaded.vit(pixels)
    half = in_precision(loaded, "bf16")
    assert half.vit(pixels).dtype == torch.float32
    np.testing.assert_array_equal(loaded.vit(pixels), before)
    assert {p.dtype for p in loaded.vit.parameters()} == {torch.float32}
    kept = [p for name, p in half.vit.named_parameters() if "norm" in name]
    assert {p.dtype for p in kept} == {torch.float32}


def test_the_precision_of_fits_is_not_that_of_answers() -> None:
    fits = BackboneSettings(backbone=TINY, device="cpu", precision="bf16")
    assert fits.load().info.dtype == "bf16"
    assert load_serving_backbone(fits, "fp32").info.dtype == "fp32"


def test_what_a_processor_computes_in_is_known() -> None:
    flags = torch.cpu.get_capabilities()
    expected = bool(flags.get("avx512_bf16") or flags.get("amx_bf16"))
    assert computes_bf16(torch.device("cpu")) == expected
