import numpy as np
import pytest
import timm.data
from PIL import Image

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
