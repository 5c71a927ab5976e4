"""The first forward passes, before anybody waits for one."""

import gc
import logging
import time
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from service.inference.bank import NO_PROMPT, ArtifactBank, PromptShape
from service.inference.host_artifact import HostArtifact
from service.inference.rows import Row

logger = logging.getLogger(__name__)


def warm_up(
    compute: Callable[[list[Row]], object],
    bank: ArtifactBank,
    *,
    shapes: Iterable[PromptShape],
    sizes: Sequence[int],
    float_sizes: Sequence[int] = (),
    embed_dim: int,
    image_size_px: int,
) -> None:
    """Run each batch size once for each prompt shape, and for none, and log how long it took.

    What exists by then is taken out of the garbage collector's sight: a full collection would look
    at torch's objects each time, and hold every request up for a quarter of a second.

    Libraries choose kernels and set buffers aside at the first pass of a size, and a GPU's graphs
    are captured then. The largest size goes first, so that the smaller ones find its memory.

    Args:
        compute: The engine's forward pass; its threads do not run yet.
        bank: Puts the artifacts made up for this on the device.
        shapes: Prompt shapes that will be asked for.
        sizes: Batch sizes.
        float_sizes: Those that are run with float32 pixels too.
        embed_dim: Width D of the backbone.
        image_size_px: Side of its input.
    """
    started_s = time.perf_counter()
    wanted = sorted({NO_PROMPT, *shapes})
    pixels = np.zeros((3, image_size_px, image_size_px), np.uint8)
    batches = [(pixels, size) for size in sorted(sizes, reverse=True)]
    floats = pixels.astype(np.float32)
    batches += [(floats, size) for size in sorted(float_sizes, reverse=True)]
    for num_layers, num_tokens in wanted:
        artifact = HostArtifact(
            digest="warm-up",
            classes=("none",),
            prompt=np.zeros((num_layers, num_tokens, embed_dim), np.float32),
            head_weight=np.zeros((1, embed_dim), np.float32),
            head_bias=np.zeros(1, np.float32),
        )
        entry = bank.insert(artifact)
        for image, size in batches:
            compute([Row(image, entry, 0.0, 0.0, tenant="warm-up") for _ in range(size)])
    gc.collect()
    gc.freeze()
    logger.info(
        "warmed up",
        extra={
            "seconds": round(time.perf_counter() - started_s, 3),
            "batch_sizes": list(sizes),
            "prompt_shapes": [list(shape) for shape in wanted],
        },
    )
