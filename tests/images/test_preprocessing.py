import io

import numpy as np
import pytest
import timm.data
from PIL import Image, ImageOps

from images.decoding import ImageLimits, decode_image
from images.preprocessing import MAX_RESIZED_PX, Preprocessing, preprocess

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
SIZES = [(100, 60), (37, 211), (84, 84), (1, 1), (500, 333), (28, 28), (1, 40), (97, 11)]


def _noise(width: int, height: int) -> Image.Image:
    rng = np.random.default_rng(width * 1000 + height)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))


def _timm(image: Image.Image, preprocessing: Preprocessing) -> np.ndarray:
    transform = timm.data.create_transform(
        (3, preprocessing.image_size_px, preprocessing.image_size_px),
        is_training=False,
        interpolation=preprocessing.interpolation,
        mean=preprocessing.mean,
        std=preprocessing.std,
        crop_pct=preprocessing.crop_pct,
        crop_mode=preprocessing.crop_mode,
    )
    normalised = transform(image).numpy().astype(np.float64)
    mean, std = (np.array(each)[:, None, None] for each in (preprocessing.mean, preprocessing.std))
    return (normalised * std + mean) * 255


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize(("side", "crop_pct"), [(84, 1.0), (84, 0.875), (33, 0.9), (64, 0.95)])
def test_equals_timm(crop_mode: str, interpolation: str, side: int, crop_pct: float) -> None:
    preprocessing = Preprocessing(side, MEAN, STD, interpolation, crop_pct, crop_mode)
    for size in SIZES:
        image = _noise(*size)
        pixels = preprocess(image, preprocessing)
        assert pixels.shape == (3, side, side)
        assert pixels.dtype == np.uint8
        assert np.abs(pixels - _timm(image, preprocessing)).max() < 1, size


@pytest.mark.parametrize("size", [(3, 400), (400, 3)])
def test_long_thin_images_are_resized_in_part_and_near_timm(size: tuple[int, int]) -> None:
    preprocessing = Preprocessing(224, MEAN, STD, "bilinear", 0.9, "center")
    assert MAX_RESIZED_PX < 248 * 248 * 400 / 3
    image = _noise(*size)
    assert np.abs(preprocess(image, preprocessing) - _timm(image, preprocessing)).max() < 3


@pytest.mark.parametrize("size", [(1, 65_535), (65_535, 1)])
@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
def test_extreme_shapes_are_answered(size: tuple[int, int], crop_mode: str) -> None:
    preprocessing = Preprocessing(224, MEAN, STD, "bicubic", 0.9, crop_mode)
    assert preprocess(Image.new("RGB", size, "red"), preprocessing).shape == (3, 224, 224)


def test_border_is_the_mean() -> None:
    preprocessing = Preprocessing(32, MEAN, STD, "bicubic", 1.0, "border")
    pixels = preprocess(Image.new("RGB", (32, 8)), preprocessing)
    assert pixels[:, 0, 0].tolist() == [round(255 * value) for value in MEAN]
    assert pixels[:, 16, 16].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    "wrong",
    [
        {"image_size_px": 0},
        {"interpolation": "lanczos"},
        {"crop_pct": 0.0},
        {"crop_pct": 1.1},
        {"crop_mode": "random"},
    ],
)
def test_wrong_values_are_named(wrong: dict[str, object]) -> None:
    right = {
        "image_size_px": 32,
        "mean": MEAN,
        "std": STD,
        "interpolation": "bicubic",
        "crop_pct": 1.0,
        "crop_mode": "center",
    }
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Preprocessing(**{**right, **wrong})


FILES = [
    (mode, format_, size)
    for mode, formats in {
        "RGB": ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM"),
        "L": ("JPEG", "PNG", "TIFF", "PPM"),
        "LA": ("PNG",),
        "RGBA": ("PNG", "WEBP", "TIFF"),
        "P": ("PNG", "GIF"),
        "1": ("PNG", "TIFF"),
        "CMYK": ("JPEG", "TIFF"),
    }.items()
    for format_ in formats
    for size in ((97, 61), (61, 97), (33, 33), (7, 5))
]


@pytest.mark.parametrize("crop_pct", [1.0, 0.875])
def test_files_of_every_format_and_mode_equal_timm(crop_pct: float) -> None:
    preprocessing = Preprocessing(32, MEAN, STD, "bicubic", crop_pct, "center")
    for mode, format_, size in FILES:
        buffer = io.BytesIO()
        _noise(*size).convert(mode).save(buffer, format_)
        data = buffer.getvalue()
        pixels = preprocess(decode_image(data, ImageLimits()), preprocessing)
        with Image.open(io.BytesIO(data)) as opened:
            expected = _timm(opened.convert("RGB"), preprocessing)
        assert np.abs(pixels - expected).max() < 1, (mode, format_, size)


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_turned_images_equal_timm_on_the_upright_ones(format_: str) -> None:
    preprocessing = Preprocessing(32, MEAN, STD, "bicubic", 0.9, "center")
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        buffer = io.BytesIO()
        _noise(61, 43).save(buffer, format_, exif=exif)
        data = buffer.getvalue()
        pixels = preprocess(decode_image(data, ImageLimits()), preprocessing)
        with Image.open(io.BytesIO(data)) as opened:
            opened.load()
            expected = _timm(ImageOps.exif_transpose(opened), preprocessing)
        assert np.abs(pixels - expected).max() < 1, orientation


def test_a_transparent_palette_equals_timm_with_hidden_colours_shown() -> None:
    preprocessing = Preprocessing(32, MEAN, STD, "bicubic", 1.0, "center")
    buffer = io.BytesIO()
    _noise(50, 41).convert("P").save(buffer, "PNG", transparency=bytes(range(256)))
    data = buffer.getvalue()
    pixels = preprocess(decode_image(data, ImageLimits()), preprocessing)
    with Image.open(io.BytesIO(data)) as opened:
        expected = _timm(opened.convert("RGBA").convert("RGB"), preprocessing)
    assert np.abs(pixels - expected).max() < 1
