"""The images that are sent, as encoded files."""

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_image

ROOT = Path(__file__).parents[2]
DEMO_IMAGES = ROOT / "examples" / "tasks" / "climate-zone" / "test.zip"
JPEG_BYTES = 59_000
JPEG_VARIANTS = 8

Picture = Literal["png48", "jpeg59k"]
PICTURES: dict[Picture, str] = {
    "png48": "the demo's 48 px PNG images (climate-zone), about 2 KB",
    "jpeg59k": "crops of a 640 x 427 px photograph (scikit-learn's china.jpg) as JPEG of 59 KB",
}


def load_pictures(picture: Picture) -> list[bytes]:
    """Return encoded images of one kind; always the same ones."""
    return _demo_images() if picture == "png48" else _photographs()


def _demo_images() -> list[bytes]:
    with zipfile.ZipFile(DEMO_IMAGES) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".png"))
        return [archive.read(name) for name in names]


def _photographs() -> list[bytes]:
    photograph = cast("Any", load_sample_image)("china.jpg")
    shifted = [np.roll(photograph, 40 * i, axis=1) for i in range(JPEG_VARIANTS)]
    return [jpeg_of_size(pixels, JPEG_BYTES) for pixels in shifted]


def jpeg_of_size(pixels: np.ndarray, max_bytes: int) -> bytes:
    """Encode (H, W, 3) uint8 at the best quality that stays within a size."""
    qualities: Sequence[int] = range(95, 4, -1)
    for quality in qualities:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
        if buffer.tell() <= max_bytes:
            return buffer.getvalue()
    raise ValueError(f"a picture of shape {pixels.shape} does not fit into {max_bytes} bytes")
