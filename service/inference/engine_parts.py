"""The parts of the engine as the settings want them, on the backbone's device."""

import torch

from backbones.info import BackboneInfo
from ensemble.prompted_vit import PromptedViT
from service.inference.backbone_pass import EagerPass
from service.inference.bank import ArtifactBank, PromptShape
from service.inference.bucketed_pass import BucketedPass, GraphCapture
from service.inference.buckets import batch_buckets
from service.inference.forward import Forward
from service.inference.memory import default_device_bytes
from service.inference.residency import ResidencyBudgets
from service.inference.warm_up import warm_up
from service.settings import ServiceSettings


def make_forward(vit: PromptedViT, settings: ServiceSettings) -> Forward:
    """Return the forward pass: CUDA graphs by batch size on a GPU, as it comes on a CPU."""
    if vit.device.type == "cuda" and settings.cuda_graphs:
        buckets = batch_buckets(settings.max_batch_size)
        return Forward(BucketedPass(vit, buckets, GraphCapture()))
    return Forward(EagerPass(vit))


def residency_budgets(settings: ServiceSettings, device: torch.device) -> ResidencyBudgets:
    """Return how much memory artifacts may take; the backbone is on the device already."""
    device_bytes = settings.resident_device_bytes or default_device_bytes(device)
    return ResidencyBudgets(device_bytes, settings.resident_host_bytes)


def warm_up_engine(
    compute: Forward,
    bank: ArtifactBank,
    backbone: BackboneInfo,
    settings: ServiceSettings,
    shapes: set[PromptShape],
) -> None:
    """Run every batch size that a GPU is prepared for, or the smallest and the largest."""
    largest = settings.max_batch_size
    warm_up(
        compute,
        bank,
        shapes=shapes,
        sizes=batch_buckets(largest) if torch.cuda.is_available() else sorted({1, largest}),
        embed_dim=backbone.embed_dim,
        image_size_px=backbone.image_size_px,
    )
