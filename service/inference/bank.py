"""Artifacts on the device: from main memory to tensors and back."""

import threading
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from service.inference.host_artifact import OVERHEAD_BYTES, HostArtifact, classes_bytes

PromptShape = tuple[int, int]
"""Layers L and tokens P; (0, 0) for an artifact without a prompt."""

NO_PROMPT: PromptShape = (0, 0)


@dataclass(frozen=True, eq=False)
class BankEntry:
    """One artifact on the device. Never written to again, and alive while anyone holds it.

    So whoever holds an entry computes with the artifact of `digest`, whatever else comes and goes.

    Attributes:
        digest: sha256 of the artifact's bytes.
        classes: Label of each index.
        prompt: (L, P, D) float32; None without a prompt.
        head_weight: (C, D) float32.
        head_bias: (C,) float32.
        num_bytes: What it takes on the device, labels and objects included.
    """

    digest: str
    classes: tuple[str, ...]
    prompt: Tensor | None
    head_weight: Tensor
    head_bias: Tensor
    num_bytes: int = field(init=False)

    @cached_property
    def prompt_shape(self) -> PromptShape:
        """Layers and tokens; rows of one forward pass share it."""
        return NO_PROMPT if self.prompt is None else (self.prompt.shape[0], self.prompt.shape[1])

    def __post_init__(self) -> None:
        """Count once: it is asked for at every request."""
        tensors = [self.head_weight, self.head_bias]
        if self.prompt is not None:
            tensors.append(self.prompt)
        total = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        total += classes_bytes(self.classes) + OVERHEAD_BYTES
        object.__setattr__(self, "num_bytes", total)


class ArtifactBank:
    """Copies artifacts between main memory and the device, beside the forward passes.

    One tensor an artifact, gathered by `torch.stack` for each batch: nothing is copied when the
    bank grows, a shape needs no room of its own, and no slot can be handed out too early. On a CPU
    both sides are main memory, and nothing is copied at all.

    Safe to use from several threads.

    Args:
        device: Where the tensors live.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._lock = threading.Lock()  # of the stream
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    @property
    def device(self) -> torch.device:
        """Where the tensors live."""
        return self._device

    def insert(self, artifact: HostArtifact) -> BankEntry:
        """Copy an artifact to the device; it is there when this returns."""
        arrays = (artifact.head_weight, artifact.head_bias, artifact.prompt)
        weight, bias, prompt = self._to_device(arrays)
        return BankEntry(
            digest=artifact.digest,
            classes=artifact.classes,
            prompt=prompt if prompt.numel() else None,
            head_weight=weight,
            head_bias=bias,
        )

    def to_host(self, entry: BankEntry) -> HostArtifact:
        """Copy an entry back, bit for bit; the device's memory is free once nobody holds it."""
        empty = torch.empty((1, 0, entry.head_weight.shape[1]))
        tensors = (
            entry.head_weight,
            entry.head_bias,
            empty if entry.prompt is None else entry.prompt,
        )
        weight, bias, prompt = self._to_host(tensors)
        return HostArtifact(entry.digest, entry.classes, prompt, weight, bias)

    def _to_device(self, arrays: tuple[np.ndarray, ...]) -> list[Tensor]:
        tensors = [torch.from_numpy(array) for array in arrays]
        if self._stream is None:
            return tensors
        with self._lock, torch.cuda.stream(self._stream):
            copied = [t.pin_memory().to(self._device, non_blocking=True) for t in tensors]
            self._stream.synchronize()
        return copied

    def _to_host(self, tensors: tuple[Tensor, ...]) -> list[np.ndarray]:
        if self._stream is None:
            return [tensor.numpy() for tensor in tensors]
        with self._lock, torch.cuda.stream(self._stream):
            return [tensor.cpu().numpy() for tensor in tensors]
