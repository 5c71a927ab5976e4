"""What classification asks of an engine, wherever it runs: in this process or in another."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from service.inference.rows import RowOutcome


@dataclass(frozen=True)
class Computed:
    """What an engine made of some images.

    Attributes:
        classes: Label of each index of the artifact that computed them.
        outcomes: One per image, in order: a result, or why this image has none.
    """

    classes: tuple[str, ...]
    outcomes: tuple[RowOutcome, ...]


class EngineClient(Protocol):
    """Computes images under an artifact. Used on the event loop only."""

    async def compute(
        self,
        digest: str,
        pixels: Sequence[np.ndarray],
        *,
        tenant: str | None = None,
        deadline_s: float,
        wants_features: bool = False,
    ) -> Computed:
        """Compute images; a caller that is cancelled takes its rows out of the queue.

        Args:
            digest: The artifact.
            pixels: (3, H, W) each, maybe none; uint8, or float32 and already normalised.
            tenant: Whose share of the engine they take; None for the artifact's own.
            deadline_s: On the monotonic clock; a row that has not started by then is not computed.
            wants_features: Whether the outcomes carry features.

        Raises:
            EngineStoppedError: The engine takes no more rows.
            ArtifactMismatchError, PromptStoreError: The artifact cannot be loaded.
        """
        ...

    async def load(self, digest: str) -> None:
        """Bring an artifact to the device, ahead of its first images; raises as `compute`."""
        ...

    async def unload(self, digest: str) -> None:
        """Let an artifact go from the device, unless it is in use; its next use loads it again."""
        ...
