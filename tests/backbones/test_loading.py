from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.data.config import resolve_model_data_config
from timm.data.transforms_factory import create_transform
from torch import nn

from backbones.errors import BackboneError, BackboneSpecError, WeightsFetchError
from backbones.info import LoadedBackbone
from backbones.loading import load_backbone, timm_preprocessing
from ensemble.errors import UnsupportedBackboneError
from images.preprocessing import preprocess

Load = Callable[..., LoadedBackbone]
TINY = "random:vit_tiny_patch16_224?seed=0&img_size=32&depth=2"


@pytest.fixture
def weights_file(tmp_path: Path) -> Path:
    """A whole vit_tiny_patch16_224 of 12 blocks, with a class head."""
    torch.manual_seed(0)
    path = tmp_path / "vit.safetensors"
    save_file(timm.create_model("vit_tiny_patch16_224", num_classes=10).state_dict(), path)
    return path


def test_a_random_backbone_is_described(load: Load) -> None:
    info = load(TINY).info

    assert info.name == TINY
    assert (info.embed_dim, info.depth, info.num_prefix_tokens) == (192, 2, 1)
    assert (info.image_size_px, info.patch_size_px, info.dtype) == (32, 16, "fp32")
    assert info.digest.startswith("sha256:")
    assert len(info.digest) == 71


def test_the_seed_and_the_sizes_make_a_random_backbone(load: Load) -> None:
    torch.manual_seed(123)
    before = torch.get_rng_state()

    first, second = load(TINY), load(TINY)

    assert torch.equal(torch.get_rng_state(), before)  # nobody else's random numbers are used
    assert first.info == second.info
    pixels = torch.zeros(1, 3, 32, 32)
    assert torch.equal(first.vit(pixels), second.vit(pixels))
    other = "random:vit_tiny_patch16_224?seed=1&img_size=32&depth=2"
    assert load(other).info.digest != first.info.digest
    deeper = load("random:vit_tiny_patch16_224?seed=0&img_size=32&depth=3")
    assert deeper.info.depth == 3
    assert deeper.info.digest != first.info.digest


def test_bfloat16_is_another_arithmetic_of_the_same_backbone(load: Load) -> None:
    exact, half = load(TINY), load(TINY, precision="bf16")

    assert half.info.digest == exact.info.digest
    assert half.info.dtype == "bf16"
    pixels = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    prompt = 0.1 * torch.randn(2, 3, 192)
    features, expected = half.vit(pixels, prompt), exact.vit(pixels, prompt)
    assert features.dtype == torch.float32
    assert 0 < (features - expected).norm() / expected.norm() < 0.02
    linear = [module for module in half.vit.modules() if isinstance(module, nn.Linear)]
    assert {module.weight.dtype for module in linear} == {torch.bfloat16}


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "deit_tiny_patch16_224"])
def test_an_image_gets_the_features_that_timm_gives_it(load: Load, name: str) -> None:
    loaded = load(f"random:{name}?seed=0&img_size=32&depth=2")
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)).resize((70, 50))

    features = loaded.vit(torch.from_numpy(preprocess(image, loaded.info.preprocessing))[None])

    config = resolve_model_data_config(loaded.vit.vit) | {"input_size": (3, 32, 32)}
    transform: Any = create_transform(**config, is_training=False)
    pixels = transform(image)
    expected = loaded.vit.vit(pixels[None])  # without a class head, these are the features
    torch.testing.assert_close(features, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "mean", "crop_pct"),
    [
        ("vit_tiny_patch16_224", (0.5, 0.5, 0.5), 0.9),
        ("deit_tiny_patch16_224", (0.485, 0.456, 0.406), 0.9),
        ("vit_base_patch16_clip_224.openai", (0.48145466, 0.4578275, 0.40821073), 0.9),
    ],
)
def test_preprocessing_is_a_property_of_the_backbone(
    name: str, mean: tuple[float, ...], crop_pct: float
) -> None:
    vit = timm.create_model(name, img_size=64, depth=1)

    preprocessing = timm_preprocessing(vit)

    assert preprocessing.mean == mean
    assert (preprocessing.crop_pct, preprocessing.interpolation) == (crop_pct, "bicubic")
    assert preprocessing.image_size_px == 64  # what it is built for, not what it was trained at


def test_how_an_image_is_resized_and_cut_is_a_property_of_the_backbone_too() -> None:
    own = {"interpolation": "bilinear", "crop_mode": "squash", "crop_pct": 1.0}
    vit = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, depth=1, pretrained_cfg_overlay=own
    )

    preprocessing = timm_preprocessing(vit)

    assert {name: getattr(preprocessing, name) for name in own} == own


def test_an_input_that_is_not_square_is_refused() -> None:
    vit = timm.create_model("vit_tiny_patch16_224", img_size=(32, 64), depth=1)

    with pytest.raises(BackboneSpecError, match="32x64 px is not square"):
        timm_preprocessing(vit)


def test_weights_come_from_a_file_whose_folder_is_not_told(
    load: Load, weights_file: Path, tmp_path: Path
) -> None:
    loaded = load(f"file:{weights_file}#vit_tiny_patch16_224")

    assert loaded.info.name == "file:vit.safetensors"
    reference: Any = timm.create_model(
        "vit_tiny_patch16_224", checkpoint_path=weights_file, num_classes=10
    )
    reference.reset_classifier(0)
    pixels = torch.randn(1, 3, 224, 224)
    assert torch.equal(loaded.vit(pixels), reference.eval()(pixels))

    # Without its class head it is the same backbone.
    headless = tmp_path / "headless.safetensors"
    save_file(reference.state_dict(), headless)
    assert load(f"file:{headless}#vit_tiny_patch16_224").info.digest == loaded.info.digest
    reference.blocks[3].mlp.fc1.bias.data[5] += 1e-3
    save_file(reference.state_dict(), headless)
    assert load(f"file:{headless}#vit_tiny_patch16_224").info.digest != loaded.info.digest


@pytest.mark.parametrize("damage", ["truncated", "garbage", "empty", "other model", "no weights"])
def test_a_file_without_the_weights_is_refused(load: Load, weights_file: Path, damage: str) -> None:
    model = "vit_tiny_patch16_224"
    if damage == "truncated":
        weights_file.write_bytes(weights_file.read_bytes()[:-1000])
    elif damage == "garbage":
        weights_file.write_bytes(b"garbage!" * 100)
    elif damage == "empty":
        weights_file.write_bytes(b"")
    elif damage == "other model":
        model = "vit_small_patch16_224"
    else:
        save_file({"cls_token": torch.zeros(1, 1, 192)}, weights_file)

    with pytest.raises(WeightsFetchError, match=rf"vit\.safetensors does not hold .* of {model}"):
        load(f"file:{weights_file}#{model}")


def test_a_pickle_is_never_opened(load: Load, tmp_path: Path) -> None:
    path = tmp_path / "vit.pth"
    path.write_bytes(b"\x80\x04.")

    with pytest.raises(WeightsFetchError, match="never pickles"):
        load(f"file:{path}#vit_tiny_patch16_224")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("", "'' is neither offline-vit-s14 nor a timm model"),
        ("nope", "'nope' is neither"),
        ("hf-hub:some/model", "is neither"),
        ("random:", "'' is neither"),
        ("random:nope", "'nope' is neither"),
        ("random:vit_tiny_patch16_224?seed", "expected whole numbers for seed, img_size, depth"),
        ("random:vit_tiny_patch16_224?seed=x", "expected whole numbers"),
        ("random:vit_tiny_patch16_224?seed=", "expected whole numbers"),
        ("random:vit_tiny_patch16_224?width=3", "expected whole numbers"),
        ("random:vit_tiny_patch16_224?depth=1.5", "expected whole numbers"),
        ("random:vit_tiny_patch16_224?seed=-1", "seed=-1 is not 0 to"),
        ("random:vit_tiny_patch16_224?seed=9223372036854775808", "seed=9223372036854775808 is not"),
        ("random:vit_tiny_patch16_224?depth=0", "depth=0 is not 1 to"),
        ("random:vit_tiny_patch16_224?img_size=0", "img_size=0 is not 1 to"),
        ("random:resnet10t?img_size=32", "resnet10t cannot be built with"),
        ("file:/weights.safetensors", "expected file:<path>#<timm name>"),
        ("file:/weights.safetensors#", "expected file:<path>#<timm name>"),
    ],
)
def test_a_spec_that_names_no_backbone_is_refused(load: Load, spec: str, words: str) -> None:
    with pytest.raises(BackboneSpecError) as caught:
        load(spec)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "error", "words"),
    [
        ("file:/absent.safetensors#vit_tiny_patch16_224", WeightsFetchError, "no weights file at"),
        ("file:#vit_tiny_patch16_224", WeightsFetchError, "no weights file at"),
        ("vit_tiny_patch16_224.nope", WeightsFetchError, "cannot fetch the weights of"),
        ("random:resnet10t", UnsupportedBackboneError, "resnet10t is a ResNet, not a timm Vision"),
        ("random:eva02_tiny_patch14_224?depth=1", UnsupportedBackboneError, "not a timm Vision"),
        (
            "random:vit_base_patch16_siglip_224?depth=1&img_size=32",
            UnsupportedBackboneError,
            "0 prefix tokens",
        ),
    ],
)
def test_what_cannot_be_loaded_is_refused_by_name(
    load: Load, spec: str, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        load(spec)


def test_a_path_may_have_a_number_sign_of_which_no_folder_is_told(
    load: Load, weights_file: Path
) -> None:
    folder = weights_file.parent / "run #7"
    folder.mkdir()
    path = weights_file.rename(folder / "vit.safetensors")

    assert load(f"file:{path}#vit_tiny_patch16_224").info.name == "file:vit.safetensors"


def test_weights_of_the_hub_are_kept_in_the_cache_that_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []

    def create(_name: str, **arguments: Any) -> nn.Module:
        given.append(arguments["cache_dir"])
        raise OSError("offline")

    monkeypatch.setattr(timm, "create_model", create)

    with pytest.raises(WeightsFetchError, match="offline"):
        load_backbone(
            "vit_tiny_patch16_224",
            cache_dir=tmp_path,
            device=torch.device("cpu"),
            precision="fp32",
        )
    assert given == [tmp_path / "hub"]


def test_an_unreachable_hub_is_a_named_error(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)

    with pytest.raises(WeightsFetchError, match="cannot fetch the weights of vit_tiny_patch16_224"):
        load("vit_tiny_patch16_224.augreg_in21k")


def test_every_error_of_the_package_is_one() -> None:
    assert issubclass(BackboneSpecError, BackboneError)
    assert issubclass(WeightsFetchError, BackboneError)
