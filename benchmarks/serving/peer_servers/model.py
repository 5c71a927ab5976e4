"""The model that every peer serves: the backbone and its tenants, batched in three ways."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from backbones.settings import BackboneSettings
from benchmarks.serving.peer_servers.job import PeerJob, Variant

Item = tuple[int, np.ndarray]
"""A tenant's number, and its image as (3, H, W) uint8."""


class TenantModel:
    """The backbone with some tenants' prompts and heads.

    Args:
        job: Which tenants, how to batch, how many threads.
        only: In variant "a": the one tenant that this process serves.
    """

    def __init__(self, job: PeerJob, *, only: int | None = None) -> None:
        torch.set_num_threads(job.threads)
        self._variant: Variant = job.variant
        self._vit = BackboneSettings().load().vit
        tensors = load_file(job.tenants)
        device = self._vit.device
        chosen = slice(job.num_tenants) if only is None else slice(only, only + 1)
        self._prompts = tensors["prompts"][chosen].to(device)  # (T, L, P, D)
        self._weights = tensors["weights"][chosen].to(device)  # (T, C, D)
        self._biases = tensors["biases"][chosen].to(device)  # (T, C)

    @torch.inference_mode()
    def predict(self, items: Sequence[Item]) -> list[list[float]]:
        """Return each image's class probabilities."""
        if self._variant == "c":
            return self._gathered(items).tolist()
        if self._variant == "a":  # this process's only tenant, whatever its number
            return self._of_tenant(0, [pixels for _, pixels in items]).tolist()
        rows: dict[int, list[int]] = defaultdict(list)
        for row, (tenant, _) in enumerate(items):
            rows[tenant].append(row)
        found: list[list[float]] = [[]] * len(items)
        for tenant, members in rows.items():
            values = self._of_tenant(tenant, [items[row][1] for row in members]).tolist()
            for row, value in zip(members, values, strict=True):
                found[row] = value
        return found

    def _of_tenant(self, tenant: int, pixels: Sequence[np.ndarray]) -> Tensor:
        features = self._vit(self._batch(pixels), self._prompts[tenant])
        logits = features @ self._weights[tenant].T + self._biases[tenant]
        return logits.softmax(-1)

    def _gathered(self, items: Sequence[Item]) -> Tensor:
        tenants = torch.tensor([tenant for tenant, _ in items], device=self._vit.device)
        features = self._vit(self._batch([pixels for _, pixels in items]), self._prompts[tenants])
        logits = torch.einsum("bd,bcd->bc", features, self._weights[tenants])
        return (logits + self._biases[tenants]).softmax(-1)

    def _batch(self, pixels: Sequence[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.stack(pixels)).to(self._vit.device)
