"""The parts of the engine as the settings want them, on the backbone's device."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future

import torch

from backbones.info import BackboneInfo
from ensemble.prompted_vit import PromptedViT
from service.inference.backbone_pass import EagerPass
from service.inference.bank import ArtifactBank, PromptShape
from service.inference.batcher import Batch
from service.inference.bucketed_pass import BucketedPass, GraphCapture
from service.inference.buckets import batch_buckets
from service.inference.engine import Compute
from service.inference.forward import Forward
from service.inference.gpu_forward import GpuForward
from service.inference.gpu_streams import GpuStreams
from service.inference.memory import default_device_bytes, default_host_bytes
from service.inference.residency import Residency, ResidencyBudgets
from service.inference.rows import Row
from service.inference.streams import CoreStreams, Streams
from service.inference.warm_up import warm_up
from service.settings import ServiceSettings

MAKE_ROOM_S = 5.0
"""So long a forward pass that ran out of memory waits for the event loop to let artifacts go."""


def default_max_batch_size(device: torch.device) -> int:
    """Return the batch size that is as fast as any, and no larger: others wait for a pass to end.

    On one core of a CPU more than 8 gain nothing (docs/serving-engine.md).
    """
    return 8 if device.type == "cpu" else 32


def default_crowded_batch_size(device: torch.device) -> int | None:
    """Return the largest batch while one ensemble crowds out others; None for no other than ever.

    On one core of a CPU 4 images take little more than half as long as 8
    (docs/serving-engine.md). What it gains and costs on a GPU has not been measured.
    """
    return 4 if device.type == "cpu" else None


def make_forward(
    vit: PromptedViT, max_batch_size: int, *, cuda_graphs: bool
) -> Forward | GpuForward:
    """Return the forward pass: CUDA graphs by batch size on a GPU, as it comes on a CPU."""
    if vit.device.type == "cpu":
        return Forward(EagerPass(vit))
    if cuda_graphs:
        return GpuForward(BucketedPass(vit, batch_buckets(max_batch_size), GraphCapture()))
    return GpuForward(EagerPass(vit))


def make_streams(device: torch.device) -> Streams:
    """Return the threads that compute: one for each of torch's on a CPU, two for a GPU."""
    return CoreStreams(torch.get_num_threads()) if device.type == "cpu" else GpuStreams()


def token_cost(backbone: BackboneInfo) -> Callable[[Row], float]:
    """Return what a row costs: its tokens in the forward pass, over those of a row without prompt.

    Time grows at least as fast as tokens do, so nobody gets more for a longer prompt.
    """
    num_patches = (backbone.image_size_px // backbone.patch_size_px) ** 2
    plain = backbone.num_prefix_tokens + num_patches

    def cost(row: Row) -> float:
        _, num_prompt_tokens = row.entry.prompt_shape
        return 1.0 + num_prompt_tokens / plain

    return cost


def use_cores(num_threads: int) -> Callable[[Batch], None]:
    """Return what has the calling thread compute a batch on its share of so many cores."""

    def prepare(batch: Batch) -> None:
        torch.set_num_threads(num_threads if batch.exclusive else 1)

    return prepare


def residency_budgets(settings: ServiceSettings, device: torch.device) -> ResidencyBudgets:
    """Return how much memory artifacts may take; the backbone is on the device already."""
    device_bytes = settings.resident_device_bytes or default_device_bytes(device)
    host_bytes = settings.resident_host_bytes or default_host_bytes(device)
    return ResidencyBudgets(device_bytes, host_bytes)


def room_maker(residency: Residency, loop: asyncio.AbstractEventLoop) -> Callable[[], bool]:
    """Return what the engine's threads make room on the device with.

    Args:
        residency: Lets go what is idle.
        loop: Its event loop, which is not busy for long.
    """

    def make_room() -> bool:
        done: Future[bool] = Future()
        loop.call_soon_threadsafe(lambda: done.set_result(residency.let_idle_go()))
        try:
            return done.result(MAKE_ROOM_S)
        except TimeoutError:
            return False

    return make_room


def warm_up_engine(
    compute: Compute,
    bank: ArtifactBank,
    backbone: BackboneInfo,
    max_batch_size: int,
    shapes: set[PromptShape],
) -> None:
    """Run every batch size that a GPU is prepared for, or the smallest and the largest.

    Few clients send float32 pixels, so that of theirs a GPU runs the smallest and the largest. To a
    CPU they are nothing new.
    """
    smallest_and_largest = sorted({1, max_batch_size})
    on_gpu = bank.device.type == "cuda"
    warm_up(
        compute,
        bank,
        shapes=shapes,
        sizes=batch_buckets(max_batch_size) if on_gpu else smallest_and_largest,
        float_sizes=smallest_and_largest if on_gpu else (),
        embed_dim=backbone.embed_dim,
        image_size_px=backbone.image_size_px,
    )
