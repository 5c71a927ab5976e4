"""One image on its way through the engine."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # results are also read where there is no torch
    from service.inference.bank import BankEntry, PromptShape


@dataclass(frozen=True)
class RowResult:
    """What the engine computed for one image.

    Attributes:
        probabilities: (C,) float32.
        digest: The artifact that computed them.
        queue_s: From submission to the start of its forward pass.
        forward_s: Duration of that pass.
        batch_size: Rows in it, of all artifacts.
        features: (D,) float32, if they were asked for.
    """

    probabilities: np.ndarray
    digest: str
    queue_s: float
    forward_s: float
    batch_size: int
    features: np.ndarray | None = None


@dataclass(eq=False)
class Row:
    """One image, waiting. Only `cancelled` changes, and only from False to True.

    Attributes:
        pixels: (3, H, W), uint8, or float32 and already normalised.
        entry: The artifact it asked for, pinned by its request.
        deadline_s: On the engine's clock; past it the row is not computed.
        submitted_s: When it was queued, on the same clock.
        tenant: Whose share of the engine it takes: an ensemble's name, or its artifact's digest.
        wants_features: Whether its result carries the features.
        cancelled: Its client is gone; the row is skipped when a batch is formed.
    """

    pixels: np.ndarray
    entry: "BankEntry"
    deadline_s: float
    submitted_s: float
    tenant: str
    wants_features: bool = False
    cancelled: bool = False

    @property
    def batch_key(self) -> "BatchKey":
        """Rows of one forward pass have this in common."""
        return self.entry.prompt_shape, self.pixels.dtype.char


BatchKey = tuple["PromptShape", str]
"""Shape of the prompt, and the character of the pixels' dtype."""

RowOutcome = RowResult | Exception
