import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def png() -> Callable[[int], bytes]:
    """Different small PNGs, by number."""

    def make(number: int = 0) -> bytes:
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        return buffer.getvalue()

    return make
