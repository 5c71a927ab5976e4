import io
import json
import tracemalloc
import zipfile
from collections.abc import Callable

import numpy as np
import pytest
import safetensors.numpy
import torch
from safetensors.torch import save as save_torch

from prompt_store.codec import BackboneShape, PromptFile, PromptLimits, read_prompt
from prompt_store.errors import InvalidPromptError, PromptTooLargeError
from prompt_store.names import digest_of
from prompt_store.peft import CONFIG, MAX_ENTRIES, MODEL, import_peft
from prompt_store.uploads import read_upload

LIMITS = PromptLimits()
PROMPT = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)
SETTINGS = {
    "peft_type": "PROMPT_TUNING",
    "base_model_name_or_path": "vit-small",
    "num_virtual_tokens": 4,
    "token_dim": 6,
    "num_layers": 12,
    "inference_mode": True,
}


def model(prompt: np.ndarray = PROMPT, **metadata: str) -> bytes:
    """As PEFT writes it, with what transformers wants in the metadata."""
    return safetensors.numpy.save({"prompt_embeddings": prompt}, {"format": "pt", **metadata})


def zipped(
    files: list[tuple[str, bytes]] | None = None,
    compression: int = zipfile.ZIP_STORED,
    **changes: object,
) -> bytes:
    """An adapter; `changes` are to its configuration."""
    if files is None:
        config = json.dumps({**SETTINGS, **changes}).encode()
        files = [("README.md", b"# A prompt"), (MODEL, model()), (CONFIG, config)]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in files:
            archive.writestr(name, content)
    return buffer.getvalue()


CONFIG_BYTES = json.dumps(SETTINGS).encode()


def test_an_adapter_becomes_a_shallow_prompt(backbone: BackboneShape) -> None:
    original = zipped()

    data, prompt = import_peft(original, LIMITS, backbone)

    np.testing.assert_array_equal(prompt.prompt_embeddings, PROMPT[None])
    assert prompt.metadata == {
        "format": "pt",
        "base_model": "vit-small",
        "backbone_digest": backbone.digest,
        "backbone_digest_assumed": "true",
        "original_format": "peft",
        "original_digest": digest_of(original),
    }
    again = read_prompt(data, LIMITS, backbone)
    np.testing.assert_array_equal(again.prompt_embeddings, prompt.prompt_embeddings)
    assert import_peft(original, LIMITS, backbone)[0] == data
    assert read_upload(original, LIMITS, backbone)[0] == data
    assert read_upload(data, LIMITS, backbone)[0] == data


def test_the_configuration_need_not_say_everything(backbone: BackboneShape) -> None:
    files = [(MODEL, model()), (CONFIG, b'{"peft_type": "PROMPT_TUNING"}')]
    _, prompt = import_peft(zipped(files), LIMITS, backbone)
    assert "base_model" not in prompt.metadata


@pytest.mark.parametrize(("dtype", "stored"), [(torch.float16, "F16"), (torch.bfloat16, "F32")])
def test_half_precision_loses_nothing(
    backbone: BackboneShape, dtype: torch.dtype, stored: str
) -> None:
    values = torch.from_numpy(PROMPT).to(dtype)
    files = [(MODEL, save_torch({"prompt_embeddings": values})), (CONFIG, CONFIG_BYTES)]
    _, prompt = import_peft(zipped(files), LIMITS, backbone)
    assert prompt.dtype == stored
    np.testing.assert_array_equal(prompt.prompt_embeddings[0], values.float().numpy())


def test_where_it_comes_from_is_not_for_the_file_to_say(backbone: BackboneShape) -> None:
    claimed = model(original_digest=f"sha256:{'c' * 64}", original_format="native")
    original = zipped([(MODEL, claimed), (CONFIG, CONFIG_BYTES)])
    _, prompt = import_peft(original, LIMITS, backbone)
    assert prompt.metadata["original_digest"] == digest_of(original)
    assert prompt.metadata["original_format"] == "peft"


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", [MODEL, CONFIG])
def test_a_file_that_is_there_twice_is_refused(backbone: BackboneShape, name: str) -> None:
    files = [(MODEL, model()), (CONFIG, CONFIG_BYTES)]
    twice = zipped([*files, *(file for file in files if file[0] == name)])
    with pytest.raises(InvalidPromptError, match=f"holds {name} 2 times"):
        import_peft(twice, LIMITS, backbone)


def test_a_declared_backbone_is_believed_or_refused(backbone: BackboneShape) -> None:
    ours = [(MODEL, model(backbone_digest=backbone.digest)), (CONFIG, CONFIG_BYTES)]
    _, prompt = import_peft(zipped(ours), LIMITS, backbone)
    assert "backbone_digest_assumed" not in prompt.metadata
    other = f"sha256:{'c' * 64}"
    foreign = [(MODEL, model(backbone_digest=other)), (CONFIG, CONFIG_BYTES)]
    with pytest.raises(InvalidPromptError, match=f"backbone {other}; .* is {backbone.digest}"):
        import_peft(zipped(foreign), LIMITS, backbone)


@pytest.mark.parametrize(
    ("files", "field", "reason"),
    [
        ([(MODEL, model())], CONFIG, "holds adapter_config.json 0 times"),
        ([(CONFIG, CONFIG_BYTES)], MODEL, "holds adapter_model.safetensors 0 times"),
        ([(f"a/{MODEL}", model()), (f"a/{CONFIG}", CONFIG_BYTES)], MODEL, "not in a folder"),
        ([(MODEL, model()), (CONFIG, CONFIG_BYTES), ("a.py", b"")], "file", "'a.py', which no"),
        ([(MODEL, model()), (CONFIG, b"{")], CONFIG, "adapter_config.json is not JSON"),
        ([(MODEL, model()), (CONFIG, b"[]")], CONFIG, "is not a JSON object"),
        ([(MODEL, model()), (CONFIG, b"[" * 9999)], CONFIG, "is not JSON"),
        ([(MODEL, model()), (CONFIG, b"{}")], "peft_type", "peft_type is None; only PROMPT_TUNING"),
        ([(MODEL, b"junk"), (CONFIG, CONFIG_BYTES)], "header", "."),
        (
            [(MODEL, safetensors.numpy.save({"lora_A": PROMPT})), (CONFIG, CONFIG_BYTES)],
            "lora_A",
            "tensor 'lora_A' is not known",
        ),
        ([(MODEL, safetensors.numpy.save({})), (CONFIG, CONFIG_BYTES)], "prompt_embeddings", "no"),
        ([(MODEL, model(PROMPT[None])), (CONFIG, CONFIG_BYTES)], "prompt_embeddings", "3 dimens"),
        (
            [(MODEL, model(PROMPT[:3])), (CONFIG, CONFIG_BYTES)],
            "num_virtual_tokens",
            r"num_virtual_tokens is 4, but prompt_embeddings is \[3, 6\]",
        ),
        (
            [(MODEL, model(PROMPT[:, :5].copy())), (CONFIG, b'{"peft_type": "PROMPT_TUNING"}')],
            "prompt_embeddings",
            "has width 5; the backbone's is 6",
        ),
        ([(MODEL, model(PROMPT * np.inf)), (CONFIG, CONFIG_BYTES)], "prompt_embeddings", "finite"),
    ],
)
def test_what_is_no_prompt_is_refused(
    backbone: BackboneShape, files: list[tuple[str, bytes]], field: str, reason: str
) -> None:
    with pytest.raises(InvalidPromptError, match=reason) as caught:
        import_peft(zipped(files), LIMITS, backbone)
    assert caught.value.field == field


def test_another_method_is_refused_by_name(backbone: BackboneShape) -> None:
    with pytest.raises(InvalidPromptError, match="peft_type is 'LORA'"):
        import_peft(zipped(peft_type="LORA"), LIMITS, backbone)
    for token_dim in (768, 3):
        with pytest.raises(InvalidPromptError, match=f"token_dim is {token_dim}"):
            import_peft(zipped(token_dim=token_dim), LIMITS, backbone)


def test_what_unpacks_to_more_than_the_limit_is_refused(backbone: BackboneShape) -> None:
    for name, content in ((MODEL, bytes(LIMITS.max_bytes + 1)), (CONFIG, bytes(70_000))):
        files = {MODEL: model(), CONFIG: CONFIG_BYTES, name: content}
        bomb = zipped([*files.items()], zipfile.ZIP_DEFLATED)
        assert len(bomb) < 100_000
        with pytest.raises(PromptTooLargeError, match=f"{name} has more than"):
            import_peft(bomb, LIMITS, backbone)


def test_of_what_is_too_much_little_is_unpacked(backbone: BackboneShape) -> None:
    files = [(MODEL, bytes(8 * LIMITS.max_bytes)), (CONFIG, CONFIG_BYTES)]
    bomb = zipped(files, zipfile.ZIP_DEFLATED)
    tracemalloc.start()
    try:
        with pytest.raises(PromptTooLargeError, match=f"{MODEL} has more than"):
            import_peft(bomb, LIMITS, backbone)
        assert tracemalloc.get_traced_memory()[1] < 4 * LIMITS.max_bytes
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compression_that_unpacks_without_a_bound_is_refused(
    backbone: BackboneShape, method: int
) -> None:
    with pytest.raises(InvalidPromptError, match=f"compressed with method {method}") as caught:
        import_peft(zipped(compression=method), LIMITS, backbone)
    assert caught.value.field == MODEL


def test_a_name_that_is_no_unicode_text_is_refused(backbone: BackboneShape) -> None:
    config = b'{"peft_type": "PROMPT_TUNING", "base_model_name_or_path": "a\\ud800"}'
    with pytest.raises(InvalidPromptError, match="not Unicode text") as caught:
        import_peft(zipped([(MODEL, model()), (CONFIG, config)]), LIMITS, backbone)
    assert caught.value.field == "base_model_name_or_path"


def test_damaged_and_overlong_zip_files_are_refused(backbone: BackboneShape) -> None:
    whole = zipped()
    at = whole.index(model())
    for damaged in (whole[:-10], whole[:at] + b"\xff" * 8 + whole[at + 8 :], b"PK\x03\x04"):
        with pytest.raises(InvalidPromptError, match="zip file cannot be read") as caught:
            read_upload(damaged, LIMITS, backbone)
        assert caught.value.field == "file"
    many = zipped([(f"{n}", b"") for n in range(MAX_ENTRIES + 1)])
    with pytest.raises(InvalidPromptError, match="17 entries; the limit is 16"):
        read_upload(many, LIMITS, backbone)


def test_a_native_prompt_is_no_zip_file(
    backbone: BackboneShape, make_prompt: Callable[..., tuple[bytes, PromptFile]]
) -> None:
    native, _ = make_prompt()
    assert read_upload(native, LIMITS, backbone)[0] == native
