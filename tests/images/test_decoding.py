import io

import numpy as np
import pytest
from PIL import Image, ImageOps
from PIL.TiffImagePlugin import STRIPBYTECOUNTS, STRIPOFFSETS, TiffImageFile

from images.decoding import ImageLimits, decode_image
from images.errors import ImageDecodeError

LIMITS = ImageLimits()


def _encode(image: Image.Image, format_: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    return buffer.getvalue()


@pytest.fixture
def picture() -> Image.Image:
    """Asymmetric, so that every orientation differs."""
    x, y = np.meshgrid(np.arange(24), np.arange(16))
    return Image.fromarray(np.stack((x * 10, y * 15, x + y), 2).astype(np.uint8))


@pytest.mark.parametrize("format_", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_formats_are_exact(picture: Image.Image, format_: str) -> None:
    decoded = decode_image(_encode(picture, format_), LIMITS)
    assert decoded.mode == "RGB"
    assert np.array_equal(decoded, picture)


@pytest.mark.parametrize("format_", ["JPEG", "WEBP"])
def test_lossy_formats_are_close(picture: Image.Image, format_: str) -> None:
    decoded = decode_image(_encode(picture, format_, quality=95), LIMITS)
    assert np.abs(np.asarray(decoded, float) - np.asarray(picture)).mean() < 4


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format_", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_exif_orientation_is_applied(picture: Image.Image, orientation: int, format_: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, object] = {"lossless": True} if format_ == "WEBP" else {}
    data = _encode(picture, format_, exif=exif, **options)
    with Image.open(io.BytesIO(data)) as file:
        file.load()
        expected = ImageOps.exif_transpose(file).convert("RGB")
    decoded = decode_image(data, LIMITS)
    assert decoded.size == ((24, 16) if orientation < 5 else (16, 24))
    assert np.array_equal(decoded, expected)


def test_orientation_six_turns_clockwise() -> None:
    # A camera held upright: what was left at the bottom belongs at the top left.
    picture = Image.new("RGB", (4, 2))
    picture.putpixel((0, 1), (255, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode_image(_encode(picture, "PNG", exif=exif), LIMITS).getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "LA", "CMYK"])
def test_modes_become_rgb(mode: str) -> None:
    image = Image.new("RGB", (6, 5), (255, 255, 255)).convert(mode)
    decoded = decode_image(_encode(image, "TIFF" if mode == "CMYK" else "PNG"), LIMITS)
    assert decoded.mode == "RGB"
    assert np.asarray(decoded).min() == 255


def test_cmyk_jpeg() -> None:
    image = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    red, green, blue = np.asarray(decode_image(_encode(image, "JPEG"), LIMITS))[4, 4].tolist()
    assert red > 250
    assert max(green, blue) < 5


@pytest.mark.parametrize("format_", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled_not_clipped(format_: str) -> None:
    values = np.array([[0, 256, 32_768, 65_535]], np.uint16)
    decoded = decode_image(_encode(Image.fromarray(values), format_), LIMITS)
    assert np.asarray(decoded)[0, :, 0].tolist() == [0, 1, 128, 255]


@pytest.mark.parametrize(
    ("values", "shown"),
    [([0, 1, 128, 255], [0, 1, 128, 255]), ([0, 256, 32_768, 65_535], [0, 1, 128, 255])],
)
def test_thirty_two_bit_grey_is_scaled_if_it_has_more_than_eight(
    values: list[int], shown: list[int]
) -> None:
    image = Image.fromarray(np.array([values], np.int32))
    assert image.mode == "I"
    decoded = decode_image(_encode(image, "TIFF"), LIMITS)
    assert np.asarray(decoded)[0, :, 0].tolist() == shown


@pytest.mark.parametrize(("values", "named"), [([0, -7], "-7"), ([0, 70_000], "70000")])
def test_a_grey_value_beyond_16_bits_is_named(values: list[int], named: str) -> None:
    image = Image.fromarray(np.array([values], np.int32))
    with pytest.raises(ImageDecodeError, match=f"grey value {named} is not from 0 to 65535"):
        decode_image(_encode(image, "TIFF"), LIMITS)


def test_a_damaged_fax_coded_image_writes_nothing_past_the_log(
    capfd: pytest.CaptureFixture[str],
) -> None:
    data = bytearray(_encode(Image.new("1", (64, 32)), "TIFF", compression="group3"))
    with Image.open(io.BytesIO(data)) as image:
        assert isinstance(image, TiffImageFile)
        (start,), (size,) = image.tag_v2[STRIPOFFSETS], image.tag_v2[STRIPBYTECOUNTS]
    data[start : start + size] = np.random.default_rng(0).bytes(size)
    # libtiff guesses such rows and goes on.
    assert decode_image(bytes(data), LIMITS).size == (64, 32)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("format_", ["PNG", "TIFF", "PPM"])
def test_dark_sixteen_bit_grey_stays_dark(format_: str) -> None:
    image = Image.fromarray(np.array([[0, 100, 255]], np.uint16))
    decoded = decode_image(_encode(image, format_), LIMITS)
    assert np.asarray(decoded)[0, :, 0].tolist() == [0, 0, 0]


def test_big_endian_sixteen_bit_tiff() -> None:
    image = Image.frombytes("I;16B", (2, 1), bytes([0x80, 0x00, 0xFF, 0xFF]))
    decoded = decode_image(_encode(image, "TIFF"), LIMITS)
    assert np.asarray(decoded)[0, :, 0].tolist() == [128, 255]


def test_transparency_is_dropped_as_convert_rgb_does() -> None:
    image = Image.new("RGBA", (3, 3), (200, 100, 50, 0))
    assert decode_image(_encode(image, "PNG"), LIMITS).getpixel((1, 1)) == (200, 100, 50)


def test_palette_with_transparency_keeps_its_colours() -> None:
    image = Image.new("P", (3, 3))
    image.putpalette([10, 20, 30, 200, 210, 220])
    data = _encode(image, "PNG", transparency=b"\x00\xff")
    assert decode_image(data, LIMITS).getpixel((0, 0)) == (10, 20, 30)


@pytest.mark.parametrize("format_", ["GIF", "WEBP", "PNG"])
def test_animation_gives_its_first_frame(format_: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    options: dict[str, object] = {"lossless": True} if format_ == "WEBP" else {}
    data = _encode(frames[0], format_, save_all=True, append_images=frames[1:], **options)
    assert decode_image(data, LIMITS).getpixel((4, 4)) == (255, 0, 0)


def test_one_pixel() -> None:
    assert decode_image(_encode(Image.new("L", (1, 1), 7), "PNG"), LIMITS).size == (1, 1)


@pytest.mark.parametrize("size", [(70_000, 2), (2, 70_000)])
@pytest.mark.parametrize("format_", ["PNG", "TIFF"])
def test_a_long_thin_image_is_refused_in_any_format(format_: str, size: tuple[int, int]) -> None:
    data = _encode(Image.new("L", size), format_)
    with pytest.raises(ImageDecodeError, match=f"{size[0]} x {size[1]}, limit 65535 a side"):
        decode_image(data, LIMITS)


def test_limits_are_named(picture: Image.Image) -> None:
    data = _encode(picture, "PNG")
    with pytest.raises(ImageDecodeError, match=f"{len(data)} bytes, limit 10"):
        decode_image(data, ImageLimits(max_bytes=10))
    with pytest.raises(ImageDecodeError, match="24 x 16 = 384 pixels, limit 383"):
        decode_image(data, ImageLimits(max_pixels=383))
    with pytest.raises(ImageDecodeError, match="limit 23 a side"):
        decode_image(data, ImageLimits(max_side_px=23))
    assert decode_image(data, ImageLimits(len(data), 384, 24)).size == (24, 16)
