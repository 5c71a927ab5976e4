"""Every resident artifact on the device: prompts by shape, class heads by padded size."""

import threading
from dataclasses import dataclass

import torch
from torch import Tensor

from prompt_store.artifacts import Artifact
from service.inference.tables import SlotTable

PromptShape = tuple[int, int]
"""Layers L and tokens P; (0, 0) for an artifact without a prompt."""

MIN_PADDED_CLASSES = 16


@dataclass(frozen=True)
class BankEntry:
    """Where one artifact lies in the bank.

    Attributes:
        digest: sha256 of the artifact's bytes.
        classes: Label of each index.
        prompt_shape: Which prompt table; rows of one forward pass share it.
        prompt_slot: Row of that table.
        padded_classes: Which head table: the class count rounded up to a power of two.
        head_slot: Row of that table.
    """

    digest: str
    classes: tuple[str, ...]
    prompt_shape: PromptShape
    prompt_slot: int
    padded_classes: int
    head_slot: int


@dataclass(frozen=True)
class HeadTables:
    """Class heads of one padded size C."""

    weight: SlotTable  # (slots, C, D)
    bias: SlotTable  # (slots, C), -inf where a class is padding


class ArtifactBank:
    """Prompts and heads gathered by slot, so that one forward pass serves many ensembles.

    Safe to insert into and remove from while another thread gathers: a slot is only written
    while nobody holds its entry.

    Args:
        embed_dim: Width D of the backbone.
        device: Where the tensors live.
    """

    def __init__(self, embed_dim: int, device: torch.device) -> None:
        self._embed_dim = embed_dim
        self._device = device
        self._lock = threading.Lock()
        self._prompts: dict[PromptShape, SlotTable] = {}
        self._heads: dict[int, HeadTables] = {}

    def insert(self, digest: str, artifact: Artifact) -> BankEntry:
        """Copy an artifact to the device and return where it lies."""
        num_layers, num_tokens, _ = artifact.prompt_embeddings.shape
        shape = (num_layers, num_tokens) if num_tokens else (0, 0)
        padded = padded_class_count(len(artifact.head_bias))
        weight = torch.zeros(padded, self._embed_dim)
        weight[: len(artifact.head_weight)] = torch.from_numpy(artifact.head_weight)
        bias = torch.full((padded,), -torch.inf)
        bias[: len(artifact.head_bias)] = torch.from_numpy(artifact.head_bias)
        with self._lock:
            head_slot = self._insert_head(padded, weight, bias)
            prompt_slot = 0
            if num_tokens:
                prompt_slot = self._insert_prompt(shape, artifact)
        return BankEntry(digest, artifact.classes, shape, prompt_slot, padded, head_slot)

    def remove(self, entry: BankEntry) -> None:
        """Take back an entry's slots; nobody may hold the entry any more."""
        with self._lock:
            if entry.prompt_shape != (0, 0):
                self._prompts[entry.prompt_shape].remove(entry.prompt_slot)
            heads = self._heads[entry.padded_classes]
            heads.weight.remove(entry.head_slot)
            heads.bias.remove(entry.head_slot)

    def prompts(self, shape: PromptShape, slots: Tensor) -> Tensor | None:
        """Gather prompts (B, L, P, D) for slots (B,) of one shape; None for (0, 0)."""
        return None if shape == (0, 0) else self._prompts[shape].rows[slots]

    def heads(self, padded_classes: int, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Gather head weights (B, C, D) and biases (B, C) of one padded size C."""
        tables = self._heads[padded_classes]
        return tables.weight.rows[slots], tables.bias.rows[slots]

    def _insert_prompt(self, shape: PromptShape, artifact: Artifact) -> int:
        if shape not in self._prompts:
            self._prompts[shape] = SlotTable((*shape, self._embed_dim), self._device)
        return self._prompts[shape].insert(torch.from_numpy(artifact.prompt_embeddings))

    def _insert_head(self, padded: int, weight: Tensor, bias: Tensor) -> int:
        if padded not in self._heads:
            self._heads[padded] = HeadTables(
                SlotTable((padded, self._embed_dim), self._device),
                SlotTable((padded,), self._device),
            )
        heads = self._heads[padded]
        slot = heads.weight.insert(weight)
        if heads.bias.insert(bias) != slot:
            raise AssertionError(f"head tables of {padded} classes disagree about slot {slot}")
        return slot


def padded_class_count(num_classes: int) -> int:
    """Round a class count up to a power of two, so that few distinct head tables exist."""
    return max(MIN_PADDED_CLASSES, 1 << (num_classes - 1).bit_length())
