"""Backgrounds for drawn tasks."""

import numpy as np
from PIL import Image


def gradient(size_px: int, rng: np.random.Generator) -> Image.Image:
    """Return a square RGB image: four random corner colours, blended, with a little noise."""
    corners = rng.integers(0, 256, (2, 2, 3), np.uint8)
    smooth = Image.fromarray(corners).resize((size_px, size_px), Image.Resampling.BILINEAR)
    noise = rng.normal(0, 8, (size_px, size_px, 1))
    return Image.fromarray((np.asarray(smooth) + noise).clip(0, 255).astype(np.uint8))
