"""Whether a backbone in less precision still decides as it does in float32.

The probe set is made in code: images of a few classes under one prompt, and a class head fitted to
float32 features of some of them. The decisions are those on the others, so that their margins
spread down to nothing, as real ones do.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ensemble.prompted_vit import PromptedViT, init_prompt

NUM_CLASSES = 8
FITTED_PER_CLASS = 6
DECIDED_PER_CLASS = 8
BATCH_SIZE = 16
NUM_PROMPT_TOKENS = 8
SEED = 20_220_904
RIDGE = 0.1
MIN_AGREEMENT = 0.95
"""At most three of the 64 decisions may differ."""

MIN_SPEED_UP = 0.9
"""Below 1, because a busy machine measures badly, and being wrong this way costs little."""


@dataclass(frozen=True)
class ProbeOutcome:
    """How a backbone compares with its float32 form.

    Attributes:
        agreement: Share of the decisions (top-1) that are the same.
        speed_up: Fastest float32 pass over the fastest of the others, in interleaved runs.
    """

    agreement: float
    speed_up: float

    @property
    def agrees(self) -> bool:
        """Whether the decisions are the same within `MIN_AGREEMENT`."""
        return self.agreement >= MIN_AGREEMENT

    @property
    def pays(self) -> bool:
        """Whether the other is not slower, within what a busy machine can tell."""
        return self.speed_up >= MIN_SPEED_UP


@torch.inference_mode()
def compare(
    exact: PromptedViT,
    other: PromptedViT,
    *,
    image_size_px: int,
    clock: Callable[[], float] = time.perf_counter,
) -> ProbeOutcome:
    """Run the probe set through both.

    Args:
        exact: The backbone in float32.
        other: The same in another precision, on the same device.
        image_size_px: Side of its input.
        clock: Seconds.
    """
    generator = torch.Generator().manual_seed(SEED)
    images = probe_images(image_size_px, generator).to(exact.device)
    prompt = init_prompt(
        exact.depth,
        NUM_PROMPT_TOKENS,
        exact.embed_dim,
        patch_size_px=exact.patch_size_px,
        generator=generator,
    ).to(exact.device)
    fitted, decided = images.tensor_split([NUM_CLASSES * FITTED_PER_CLASS])
    labels = torch.arange(len(fitted), device=exact.device) % NUM_CLASSES
    head = fitted_head(torch.cat([exact(b, prompt) for b in fitted.split(BATCH_SIZE)]), labels)
    same: list[Tensor] = []
    exact_s: list[float] = []
    other_s: list[float] = []
    other(decided[:BATCH_SIZE], prompt)  # its kernels are chosen outside of what is timed
    for batch in decided.split(BATCH_SIZE):
        times = [clock()]
        expected = _done(exact(batch, prompt))
        times.append(clock())
        found = _done(other(batch, prompt))
        times.append(clock())
        exact_s.append(times[1] - times[0])
        other_s.append(times[2] - times[1])
        same.append(head(expected).argmax(-1) == head(found).argmax(-1))
    agreement = float(torch.cat(same).float().mean())
    return ProbeOutcome(agreement, min(exact_s) / min(other_s))


def probe_images(image_size_px: int, generator: torch.Generator) -> Tensor:
    """Return images (N, 3, H, W) uint8, image i of class i modulo `NUM_CLASSES`.

    A coarse pattern of colours per class under a finer one and noise of each image's own.
    """
    per_class = FITTED_PER_CLASS + DECIDED_PER_CLASS
    count = NUM_CLASSES * per_class

    def patterns(count: int, cells: int) -> Tensor:
        grid = torch.rand(count, 3, cells, cells, generator=generator)
        return functional.interpolate(grid, size=(image_size_px, image_size_px), mode="bicubic")

    shared = patterns(NUM_CLASSES, 4).repeat(per_class, 1, 1, 1)
    own = patterns(count, 7)
    noise = torch.rand(count, 3, image_size_px, image_size_px, generator=generator)
    return (255 * (0.3 * shared + 0.55 * own + 0.15 * noise)).clamp(0, 255).to(torch.uint8)


def fitted_head(features: Tensor, labels: Tensor) -> Callable[[Tensor], Tensor]:
    """Return a linear head, ridge regression of centred features (N, D) on labels (N,)."""
    mean = features.mean(0)
    centred = (features - mean).double()
    scale = centred.square().mean().sqrt().clamp_min(1e-12)
    x = centred / scale
    targets = functional.one_hot(labels, NUM_CLASSES).double() - 1 / NUM_CLASSES
    gram = x @ x.T
    gram.diagonal().add_(RIDGE * gram.diagonal().mean())
    weight = x.T @ torch.linalg.solve(gram, targets)  # (D, C)

    def head(other: Tensor) -> Tensor:
        return ((other - mean).double() / scale) @ weight

    return head


def _done(features: Tensor) -> Tensor:
    """Wait until the device has computed the features."""
    if features.device.type == "cuda":
        torch.cuda.synchronize(features.device)
    return features
