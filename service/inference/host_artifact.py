"""What serving needs of an artifact, in main memory."""

import sys
from dataclasses import dataclass

import numpy as np

from prompt_store.artifacts import Artifact

OVERHEAD_BYTES = 4096
"""Of the Python objects around an artifact's arrays; generous."""


@dataclass(frozen=True, eq=False)
class HostArtifact:
    """An artifact that waits to be used: its arrays as they were stored, nothing else.

    Attributes:
        digest: sha256 of the artifact's bytes.
        classes: Label of each index.
        prompt: (L, P, D); P = 0 without a prompt.
        head_weight: (C, D).
        head_bias: (C,).
    """

    digest: str
    classes: tuple[str, ...]
    prompt: np.ndarray
    head_weight: np.ndarray
    head_bias: np.ndarray

    @property
    def num_bytes(self) -> int:
        """What it takes in memory."""
        arrays = self.prompt.nbytes + self.head_weight.nbytes + self.head_bias.nbytes
        return arrays + classes_bytes(self.classes) + OVERHEAD_BYTES


def host_artifact(digest: str, artifact: Artifact) -> HostArtifact:
    """Copy what serving needs out of an artifact; the file's bytes may then be let go."""
    return HostArtifact(
        digest=digest,
        classes=artifact.classes,
        prompt=artifact.prompt_embeddings.copy(),
        head_weight=artifact.head_weight.copy(),
        head_bias=artifact.head_bias.copy(),
    )


def classes_bytes(classes: tuple[str, ...]) -> int:
    """Return what the labels take in memory; there may be thousands."""
    return sum(map(sys.getsizeof, classes))
