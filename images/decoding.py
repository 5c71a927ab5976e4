"""From the bytes of an image file to upright RGB pixels."""

import io
import re
from dataclasses import dataclass

import numpy as np
from PIL import ExifTags, Image
from PIL.TiffImagePlugin import TILELENGTH, TILEWIDTH, TiffImageFile

from images.errors import ImageDecodeError, ImageTooLargeError
from images.libtiff import silence_libtiff

silence_libtiff()

# Not AVIF: its decoder unpacks whatever size the bitstream has, though the header says 8 x 8.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
# Their decoder takes time quadratic in the comments, and nothing writes them but people.
_PLAIN_PPM = (b"P1", b"P2", b"P3")
# Every scan of a progressive JPEG costs a pass over all pixels; encoders write about ten.
MAX_JPEG_SCANS = 100
_START_OF_SCAN = b"\xff\xda"
_MAX_PILLOW_PIXELS = 2 * (Image.MAX_IMAGE_PIXELS or 0)
"""Beyond this Pillow refuses to open a file; below, `ImageLimits` decides."""
_MAX_8_BIT = 255
_MAX_16_BIT = 65_535
_ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class ImageLimits:
    """How large an image may be.

    Attributes:
        max_bytes: Size of the encoded image.
        max_pixels: Width times height.
        max_side_px: Width or height alone. Resizing holds a table that grows with the side,
            so a long thin image costs more than its pixels say.
    """

    max_bytes: int = 20_000_000
    max_pixels: int = 50_000_000
    max_side_px: int = 65_535


def decode_image(data: bytes, limits: ImageLimits) -> Image.Image:
    """Decode an image as a viewer would show it, to RGB.

    EXIF orientation is applied. Grey, palette and CMYK images are converted; 16-bit grey is
    scaled to 8 bits, as is 32-bit grey with a value over 255; of an animation the first frame is
    taken. Transparency is dropped, not blended: hidden colours show, as in `convert("RGB")`, with
    which backbones are trained.

    Args:
        data: The file's bytes: JPEG, PNG, WebP, GIF, BMP, TIFF or PPM.
        limits: Checked against the header, before any pixel is decoded.

    Raises:
        ImageDecodeError: Not such an image, damaged, or over a limit.
    """
    if len(data) > limits.max_bytes:
        raise ImageTooLargeError(
            f"image has {len(data)} bytes, limit {limits.max_bytes}",
            field="bytes",
            limit=limits.max_bytes,
        )
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_header(image, data, limits)
            image.load()
            return _upright(_to_rgb(image), _orientation(image))
    except (ImageDecodeError, MemoryError):
        raise
    except Image.DecompressionBombError as error:  # its own limit, checked when it opens a file
        limit = min(limits.max_pixels, _MAX_PILLOW_PIXELS)
        raise ImageTooLargeError(
            f"image has {_number_in(error)} pixels, limit {limit}", field="pixels", limit=limit
        ) from error
    # Pillow's readers raise nearly any exception on damaged files, SyntaxError included.
    except Exception as error:
        raise ImageDecodeError(f"image cannot be decoded: {_reason(error)}") from error


def _check_header(image: Image.Image, data: bytes, limits: ImageLimits) -> None:
    if data.startswith(_PLAIN_PPM):
        raise ImageDecodeError("PPM with its numbers as text is not read, only the binary form")
    width, height = image.size
    _check_pixels("image", width, height, limits)
    if isinstance(image, TiffImageFile):
        # A tile is decoded whole, and may be larger than the image.
        tile_width, tile_height = (int(image.tag_v2.get(t, 0)) for t in (TILEWIDTH, TILELENGTH))
        _check_pixels("a tile of the image", tile_width, tile_height, limits)
    if max(width, height) > limits.max_side_px:
        raise ImageTooLargeError(
            f"image is {width} x {height}, limit {limits.max_side_px} a side",
            field="side",
            limit=limits.max_side_px,
        )
    # Within pixel data 0xff is always followed by 0x00, so this counts no pixels.
    scans = data.count(_START_OF_SCAN) if data.startswith(b"\xff\xd8") else 0
    if scans > MAX_JPEG_SCANS:
        raise ImageDecodeError(f"JPEG has {scans} scans, limit {MAX_JPEG_SCANS}")


def _check_pixels(what: str, width: int, height: int, limits: ImageLimits) -> None:
    if width * height > limits.max_pixels:
        raise ImageTooLargeError(
            f"{what} is {width} x {height} = {width * height} pixels, limit {limits.max_pixels}",
            field="pixels",
            limit=limits.max_pixels,
        )


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        return _from_integers(image).convert("RGB")
    if image.mode == "F":
        raise ImageDecodeError("image has floating-point pixels, whose range is unknown")
    if image.mode in ("P", "PA", "La", "RGBa"):
        # Directly to RGB, Pillow warns of palettes with transparency and refuses the others.
        opaque = "LA" if image.mode == "La" else "RGBA"
        return image.convert(opaque).convert("RGB")
    return image.convert("RGB")


def _from_integers(image: Image.Image) -> Image.Image:
    """Scale 16-bit grey to 8 bits; 32-bit grey too, unless its values are those of 8 bits."""
    values = np.asarray(image)
    for value in (int(values.min()), int(values.max())):
        if not 0 <= value <= _MAX_16_BIT:
            raise ImageDecodeError(f"grey value {value} is not from 0 to {_MAX_16_BIT}")
    # Pillow reads 16-bit PGM as 32 bits, scaled to `_MAX_16_BIT`.
    has_32_bits = image.mode == "I" and image.format != "PPM"
    shift = 0 if has_32_bits and values.max() <= _MAX_8_BIT else 8
    return Image.fromarray((values >> shift).astype(np.uint8))


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 when there is none or the EXIF block is damaged.

    Call it after `image.load()`: Pillow has then turned TIFF images itself and says so here.
    """
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    # The pixels are sound: a damaged block of metadata is no reason to refuse them.
    except Exception:  # noqa: BLE001
        return 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    transpose = _ORIENTATIONS.get(orientation)
    return image if transpose is None else image.transpose(transpose)


def _number_in(error: Exception) -> str:
    """The first number in Pillow's message, which is how many pixels there are."""
    found = re.search(r"\d+", str(error))
    return found[0] if found else "too many"


def _reason(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return f"not one of {', '.join(FORMATS)}"
    return str(error) or type(error).__name__
