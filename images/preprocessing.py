"""How an image becomes the pixels a backbone was trained on."""

from dataclasses import dataclass
from math import floor

import numpy as np
from PIL import Image

_RESAMPLING = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
}
_CROP_MODES = ("center", "squash", "border")
# An image 1 px wide and 10,000 px high, enlarged until its short side fits, would need
# gigabytes. Past this size only the part that stays is resized.
MAX_RESIZED_PX = 4_000_000


@dataclass(frozen=True)
class Preprocessing:
    """A backbone's evaluation transform, in timm's terms.

    Attributes:
        image_size_px: Side of the square input.
        mean: Per-channel mean subtracted from pixels in [0, 1].
        std: Per-channel standard deviation they are divided by.
        interpolation: "bicubic" or "bilinear".
        crop_pct: Share of the resized image that is kept.
        crop_mode: "center", "squash" or "border", as timm defines them.
    """

    image_size_px: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str
    crop_pct: float
    crop_mode: str

    def __post_init__(self) -> None:
        if self.image_size_px < 1:
            raise ValueError(f"image_size_px is {self.image_size_px}, at least 1 is needed")
        if self.interpolation not in _RESAMPLING:
            raise ValueError(f"interpolation {self.interpolation!r} is not {list(_RESAMPLING)}")
        if not 0 < self.crop_pct <= 1:
            raise ValueError(f"crop_pct is {self.crop_pct}, it must be in (0, 1]")
        if self.crop_mode not in _CROP_MODES:
            raise ValueError(f"crop_mode {self.crop_mode!r} is not one of {list(_CROP_MODES)}")


def preprocess(image: Image.Image, preprocessing: Preprocessing) -> np.ndarray:
    """Resize and crop an RGB image as timm's evaluation transform does.

    The mean and the standard deviation are not applied: that happens on the device. The same
    pixels as `timm.data.create_transform(is_training=False)`, except for images so long and
    thin that resizing them whole would be a danger (`MAX_RESIZED_PX`): a few grey levels there.

    Args:
        image: RGB, any size.
        preprocessing: The backbone's transform.

    Returns:
        uint8, shape (3, image_size_px, image_size_px).
    """
    side = preprocessing.image_size_px
    size = _resized(image.size, preprocessing)
    left, x, crop_width = _crop(size[0], side)
    top, y, crop_height = _crop(size[1], side)
    region = (left, top, left + crop_width, top + crop_height)
    resized = _resize_region(image, size, region, _RESAMPLING[preprocessing.interpolation])
    if resized.size != (side, side):
        border = tuple(round(255 * value) for value in preprocessing.mean)
        canvas = Image.new("RGB", (side, side), border)
        canvas.paste(resized, (x, y))
        resized = canvas
    return np.ascontiguousarray(np.asarray(resized).transpose(2, 0, 1))


def _resize_region(
    image: Image.Image,
    size: tuple[int, int],
    region: tuple[int, int, int, int],
    resampling: Image.Resampling,
) -> Image.Image:
    """Return `region` of `image` resized to `size`."""
    width, height = size
    if width * height <= MAX_RESIZED_PX:
        return image.resize(size, resampling).crop(region)
    # Pillow may then swap its two passes, each rounded: a few grey levels apart from the above.
    scale_x, scale_y = image.width / width, image.height / height
    left, top, right, bottom = region
    box = (
        left * scale_x,
        top * scale_y,
        min(right * scale_x, image.width),
        min(bottom * scale_y, image.height),
    )
    return image.resize((right - left, bottom - top), resampling, box=box)


def _resized(size: tuple[int, int], preprocessing: Preprocessing) -> tuple[int, int]:
    """Return the width and height to which timm would resize, before it crops or pads."""
    width, height = size
    target = floor(preprocessing.image_size_px / preprocessing.crop_pct)
    if preprocessing.crop_mode == "squash":
        return target, target
    if preprocessing.crop_mode == "border":
        ratio = max(width, height) / target
        return max(round(width / ratio), 1), max(round(height / ratio), 1)
    if width <= height:
        return target, int(target * height / width)
    return int(target * width / height), target


def _crop(length: int, side: int) -> tuple[int, int, int]:
    """Return where the crop starts, where it lands in the result, and its length."""
    if length < side:
        return 0, (side - length) // 2, length
    return round((length - side) / 2), 0, side
