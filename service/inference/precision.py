"""In which arithmetic the service answers."""

import logging
from collections.abc import Callable
from dataclasses import asdict
from typing import Literal

import torch

from backbones.errors import BackboneSpecError
from backbones.info import LoadedBackbone
from backbones.precision import in_precision
from backbones.settings import BackboneSettings
from service.inference.precision_probe import MIN_AGREEMENT, MIN_SPEED_UP, ProbeOutcome, compare

logger = logging.getLogger(__name__)

ServingPrecision = Literal["auto", "fp32", "bf16", "fp16"]


def load_serving_backbone(
    backbone: BackboneSettings, precision: ServingPrecision
) -> LoadedBackbone:
    """Load the backbone that answers; what the settings say of the precision of fits is not used.

    Raises:
        BackboneError: It cannot be loaded, or not run in that precision.
    """
    exact = backbone.model_copy(update={"precision": "fp32"})
    return serving_backbone(exact.load(), precision)


def serving_backbone(
    loaded: LoadedBackbone,
    precision: ServingPrecision,
    *,
    has_bf16: Callable[[torch.device], bool] | None = None,
) -> LoadedBackbone:
    """Return a float32 backbone in the arithmetic that answers are computed in.

    "auto" takes bf16 where the device computes in it, unless its decisions on the probe set
    differ from those in float32 or, on a CPU, it is slower; then it warns and keeps float32. A
    precision that is asked for by name is taken without a check.

    Args:
        loaded: The backbone in float32, on its device.
        precision: What the settings say.
        has_bf16: Says whether a device computes in bfloat16; `computes_bf16` if None.

    Raises:
        BackboneSpecError: "fp16" on a CPU.
    """
    device = loaded.vit.device
    if precision == "fp16" and device.type != "cuda":
        raise BackboneSpecError(f"HGPROMPT_SERVING_PRECISION=fp16 needs a GPU; this is {device}")
    if precision != "auto":
        return in_precision(loaded, precision)
    if not (has_bf16 or computes_bf16)(device):
        return loaded
    return _checked_bf16(loaded)


def _checked_bf16(loaded: LoadedBackbone) -> LoadedBackbone:
    half = in_precision(loaded, "bf16")
    outcome = compare(loaded.vit, half.vit, image_size_px=loaded.info.image_size_px)
    if suffices(outcome, loaded.vit.device):
        logger.info("serving in bf16", extra=asdict(outcome))
        return half
    logger.warning(
        "serving in fp32: bf16 must make at least %g of fp32's decisions and, on a CPU, have %g of "
        "its speed",
        MIN_AGREEMENT,
        MIN_SPEED_UP,
        extra=asdict(outcome),
    )
    return loaded


def suffices(outcome: ProbeOutcome, device: torch.device) -> bool:
    """Say whether bf16 is to be served after what the probe set showed.

    The probe's passes are eager. On a GPU those of a small backbone take as long as their kernels
    take to start, in any precision, while serving replays graphs: there its times say nothing.
    """
    return outcome.agrees and (outcome.pays or device.type == "cuda")


def computes_bf16(device: torch.device) -> bool:
    """Say whether a device multiplies in bfloat16 itself, rather than by way of float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    processor = torch.cpu.get_capabilities()
    return bool(processor.get("avx512_bf16") or processor.get("amx_bf16"))
