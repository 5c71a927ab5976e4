"""From an image file to pixels, exactly as the service does it; without torch in memory."""

from pathlib import Path

import numpy as np
from pydantic import TypeAdapter

from images.decoding import ImageLimits, decode_image
from images.preprocessing import Preprocessing, preprocess

_PREPROCESSING = TypeAdapter(Preprocessing)


class Decoder:
    """Decodes and resizes for the backbone that some tenants belong to.

    Args:
        tenants: Their file; what the backbone wants is written beside it.
    """

    def __init__(self, tenants: Path) -> None:
        self._preprocessing = _PREPROCESSING.validate_json(_beside(tenants).read_bytes())

    def __call__(self, data: bytes) -> np.ndarray:
        """Return (3, H, W) uint8."""
        return preprocess(decode_image(data, ImageLimits()), self._preprocessing)


def write_preprocessing(tenants: Path, preprocessing: Preprocessing) -> None:
    """Write what `Decoder` reads."""
    _beside(tenants).write_bytes(_PREPROCESSING.dump_json(preprocessing))


def _beside(tenants: Path) -> Path:
    return tenants.with_suffix(".preprocessing.json")
