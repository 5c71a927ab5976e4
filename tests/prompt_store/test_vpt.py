from collections.abc import Callable

import numpy as np
import pytest
import safetensors.numpy
import torch
from safetensors.torch import save as save_torch

from prompt_store.codec import BackboneShape, PromptFile, PromptLimits, read_prompt
from prompt_store.errors import InvalidPromptError
from prompt_store.names import digest_of
from prompt_store.uploads import read_upload
from prompt_store.vpt import import_vpt

LIMITS = PromptLimits()
RNG = np.random.default_rng(0)
SHALLOW = RNG.standard_normal((1, 4, 6)).astype(np.float32)
DEEP = RNG.standard_normal((2, 4, 6)).astype(np.float32)


def test_shallow_and_deep_are_stacked(backbone: BackboneShape) -> None:
    original = safetensors.numpy.save(
        {"shallow_prompt": SHALLOW, "deep_prompt": DEEP}, {"site": "x"}
    )
    data, prompt = import_vpt(original, LIMITS, backbone)
    np.testing.assert_array_equal(prompt.prompt_embeddings, np.concatenate([SHALLOW, DEEP]))
    assert prompt.metadata == {
        "site": "x",
        "backbone_digest": backbone.digest,
        "backbone_digest_assumed": "true",
        "original_format": "vpt",
        "original_digest": digest_of(original),
    }
    again = read_prompt(data, LIMITS, backbone)
    np.testing.assert_array_equal(again.prompt_embeddings, prompt.prompt_embeddings)
    assert import_vpt(original, LIMITS, backbone)[0] == data


@pytest.mark.parametrize("shape", [(1, 4, 6), (4, 6)])
def test_shallow_alone_is_one_layer(backbone: BackboneShape, shape: tuple[int, ...]) -> None:
    original = safetensors.numpy.save({"shallow_prompt": SHALLOW.reshape(shape)})
    _, prompt = import_vpt(original, LIMITS, backbone)
    np.testing.assert_array_equal(prompt.prompt_embeddings, SHALLOW)


def test_deep_alone_holds_every_layer(backbone: BackboneShape) -> None:
    every_layer = np.concatenate([SHALLOW, DEEP])
    original = safetensors.numpy.save({"deep_prompt": every_layer})
    _, prompt = import_vpt(original, LIMITS, backbone)
    np.testing.assert_array_equal(prompt.prompt_embeddings, every_layer)


def test_a_head_comes_along_and_f16_stays(backbone: BackboneShape) -> None:
    tensors = {"shallow_prompt": SHALLOW, "head.weight": DEEP[0, :2], "head.bias": DEEP[0, 0, :2]}
    halves = {name: array.astype(np.float16) for name, array in tensors.items()}
    original = safetensors.numpy.save(halves, {"classes": '["a","b"]'})
    _, prompt = import_vpt(original, LIMITS, backbone)
    assert prompt.dtype == "F16"
    assert prompt.classes == ("a", "b")
    assert prompt.head_weight is not None
    np.testing.assert_array_equal(prompt.head_weight, halves["head.weight"])


def test_bf16_becomes_f32_without_loss(backbone: BackboneShape) -> None:
    values = torch.from_numpy(SHALLOW).to(torch.bfloat16)
    _, prompt = import_vpt(save_torch({"shallow_prompt": values}), LIMITS, backbone)
    assert prompt.dtype == "F32"
    np.testing.assert_array_equal(prompt.prompt_embeddings, values.float().numpy())


def test_layers_of_two_precisions_lose_nothing(backbone: BackboneShape) -> None:
    tensors = {"shallow_prompt": SHALLOW.astype(np.float16), "deep_prompt": DEEP}
    _, prompt = import_vpt(safetensors.numpy.save(tensors), LIMITS, backbone)
    assert prompt.dtype == "F32"
    np.testing.assert_array_equal(prompt.prompt_embeddings[1:], DEEP)


def test_a_declared_backbone_is_believed_or_refused(backbone: BackboneShape) -> None:
    declared = {"backbone_digest": backbone.digest}
    _, prompt = import_vpt(
        safetensors.numpy.save({"shallow_prompt": SHALLOW}, declared), LIMITS, backbone
    )
    assert "backbone_digest_assumed" not in prompt.metadata
    other = f"sha256:{'c' * 64}"
    foreign = safetensors.numpy.save({"shallow_prompt": SHALLOW}, {"backbone_digest": other})
    with pytest.raises(InvalidPromptError, match=f"backbone {other}; .* is {backbone.digest}"):
        import_vpt(foreign, LIMITS, backbone)


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({"head.weight": DEEP[0]}, "none of the tensors shallow_prompt, deep_prompt is there"),
        (
            {"shallow_prompt": SHALLOW, "deep_prompt": DEEP[:1]},
            "shallow_prompt and deep_prompt have 2 layers in all; expected 3",
        ),
        ({"deep_prompt": DEEP}, "deep_prompt have 2 layers in all; expected 3"),
        ({"shallow_prompt": DEEP}, "shallow_prompt have 2 layers in all; expected 1"),
        (
            {"shallow_prompt": SHALLOW[:, :3], "deep_prompt": DEEP},
            r"shallow_prompt \[1, 3, 6\] and deep_prompt \[2, 4, 6\] differ",
        ),
        ({"shallow_prompt": SHALLOW[:, :, :5]}, "has width 5; the backbone's is 6"),
        ({"shallow_prompt": SHALLOW[:, :0]}, "has 0 prompt tokens; it must have 1 to 512"),
        ({"shallow_prompt": np.zeros((1, 513, 6), np.float32)}, "513 prompt tokens; .* 1 to 512"),
        ({"shallow_prompt": SHALLOW[0, 0, 0]}, r"shallow_prompt has shape \[\]; expected \(P, D\)"),
        (
            {"shallow_prompt": SHALLOW, "deep_prompt": SHALLOW[0, 0, 0]},
            r"deep_prompt has shape \[\]; expected \(P, D\)",
        ),
        ({"shallow_prompt": SHALLOW[0, 0]}, r"shallow_prompt has shape \[6\]"),
        ({"shallow_prompt": SHALLOW * np.inf}, "every value must be finite"),
        ({"shallow_prompt": SHALLOW, "mlp": DEEP}, "tensor 'mlp' is not known"),
        ({"shallow_prompt": SHALLOW, "head.bias": DEEP[0, 0]}, "head.bias comes without"),
    ],
)
def test_what_does_not_fit_is_refused(
    backbone: BackboneShape, tensors: dict[str, np.ndarray], reason: str
) -> None:
    original = safetensors.numpy.save(
        {name: np.array(array, order="C") for name, array in tensors.items()}
    )
    with pytest.raises(InvalidPromptError, match=reason):
        import_vpt(original, LIMITS, backbone)


def test_an_upload_keeps_its_bytes_unless_it_is_imported(
    backbone: BackboneShape, make_prompt: Callable[..., tuple[bytes, PromptFile]]
) -> None:
    native, _ = make_prompt()
    assert read_upload(native, LIMITS, backbone)[0] == native
    foreign = safetensors.numpy.save({"shallow_prompt": SHALLOW})
    stored, prompt = read_upload(foreign, LIMITS, backbone)
    assert stored != foreign
    assert prompt.metadata["original_digest"] == digest_of(foreign)
    assert read_upload(stored, LIMITS, backbone)[0] == stored


def test_a_native_prompt_may_mention_the_other_layout(
    backbone: BackboneShape, make_prompt: Callable[..., tuple[bytes, PromptFile]]
) -> None:
    native, _ = make_prompt(note='converted from "shallow_prompt"')
    assert read_upload(native, LIMITS, backbone)[0] == native
