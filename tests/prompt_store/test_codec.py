import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from prompt_store.codec import (
    BackboneShape,
    PromptFile,
    PromptLimits,
    read_prompt,
    write_prompt,
)
from prompt_store.errors import InvalidPromptError

LIMITS = PromptLimits()
DIGEST = f"sha256:{'b' * 64}"
BACKBONE = BackboneShape(digest=DIGEST, embed_dim=6, depth=3)


@st.composite
def prompt_files(draw: st.DrawFn) -> PromptFile:
    values = st.floats(-1000, 1000, width=16)
    depth, tokens = draw(st.sampled_from([1, 3])), draw(st.integers(1, 5))
    metadata = {
        "backbone_digest": DIGEST,
        "backbone": "vit",
        "site": draw(st.text("aé☃", max_size=9)),
    }
    weight = bias = None
    if draw(st.booleans()):
        classes = draw(st.lists(st.text("aé☃", min_size=1), min_size=1, max_size=4, unique=True))
        metadata["classes"] = json.dumps(classes)
        weight = draw(hnp.arrays(np.float32, (len(classes), 6), elements=values))
        if draw(st.booleans()):
            bias = draw(hnp.arrays(np.float32, len(classes), elements=values))
    prompt = draw(hnp.arrays(np.float32, (depth, tokens, 6), elements=values))
    return PromptFile(prompt, weight, bias, metadata)


@given(prompt_files(), st.sampled_from(["F32", "F16"]))
def test_a_prompt_comes_back_as_it_was(prompt: PromptFile, dtype: str) -> None:
    data = write_prompt(prompt, dtype)
    back = read_prompt(data, LIMITS, BACKBONE)
    np.testing.assert_array_equal(back.prompt_embeddings, prompt.prompt_embeddings)
    assert back.prompt_embeddings.dtype == np.float32
    assert back.metadata == prompt.metadata
    assert back.classes == prompt.classes
    assert back.dtype == dtype
    for theirs, ours in (
        (back.head_weight, prompt.head_weight),
        (back.head_bias, prompt.head_bias),
    ):
        assert (theirs is None) == (ours is None)
        if theirs is not None:
            np.testing.assert_array_equal(theirs, ours)
    assert write_prompt(back, dtype) == data


def test_a_file_of_other_tools_is_read(tmp_path: Path) -> None:
    tokens = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float16)
    path = tmp_path / "prompt.safetensors"
    safetensors.numpy.save_file(
        {"prompt_embeddings": tokens}, path, {"backbone_digest": DIGEST, "format": "np"}
    )
    prompt = read_prompt(path, LIMITS, BACKBONE)
    assert prompt.prompt_embeddings.shape == (1, 4, 6)  # (P, D) is a shallow prompt
    np.testing.assert_array_equal(prompt.prompt_embeddings[0], tokens)
    assert (prompt.dtype, prompt.classes, prompt.labels) == ("F16", None, {"format": "np"})


def test_a_head_may_come_without_class_names(
    make_prompt: Callable[..., tuple[bytes, PromptFile]],
) -> None:
    _, prompt = make_prompt()
    with_head = replace(prompt, head_weight=np.ones((2, 6), np.float32))
    back = read_prompt(write_prompt(with_head), LIMITS, BACKBONE)
    assert back.classes is None
    assert back.head_weight is not None
    assert back.head_weight.shape == (2, 6)


def test_arrays_that_were_read_do_not_share_the_bytes(
    make_prompt: Callable[..., tuple[bytes, PromptFile]],
) -> None:
    data, original = make_prompt()
    values = read_prompt(data, LIMITS).prompt_embeddings
    values += 1
    np.testing.assert_array_equal(
        read_prompt(data, LIMITS).prompt_embeddings, original.prompt_embeddings
    )


def test_free_metadata_is_what_has_no_meaning_of_its_own(
    make_prompt: Callable[..., tuple[bytes, PromptFile]],
) -> None:
    data, _ = make_prompt(license="MIT", backbone="vit", site="north", classes='["a"]')
    assert read_prompt(data, LIMITS).labels == {"site": "north"}


def test_without_a_backbone_only_shapes_go_unchecked() -> None:
    prompt = PromptFile(np.ones((7, 2, 99), np.float32), metadata={"backbone_digest": DIGEST})
    assert read_prompt(write_prompt(prompt), LIMITS).prompt_embeddings.shape == (7, 2, 99)
    with pytest.raises(InvalidPromptError, match="metadata backbone_digest is missing"):
        write_prompt(replace(prompt, metadata={}))


def test_nothing_is_written_that_could_not_be_read() -> None:
    metadata = {"backbone_digest": DIGEST}
    with pytest.raises(InvalidPromptError, match="every value must be finite"):
        write_prompt(PromptFile(np.full((1, 1, 6), np.nan, np.float32), metadata=metadata))
    with pytest.raises(InvalidPromptError, match="0 prompt tokens"):
        write_prompt(PromptFile(np.ones((1, 0, 6), np.float32), metadata=metadata))


def test_limits_are_inclusive(make_prompt: Callable[..., tuple[bytes, PromptFile]]) -> None:
    data, prompt = make_prompt()
    header_bytes = int.from_bytes(data[:8], "little")
    norm = float(np.linalg.norm(prompt.prompt_embeddings.astype(np.float64), axis=-1).max())
    exact = PromptLimits(
        max_bytes=len(data), max_header_bytes=header_bytes, max_prompt_tokens=4, max_norm=norm
    )
    read_prompt(data, exact)
    for limit, less in (
        ("max_bytes", len(data) - 1),
        ("max_header_bytes", header_bytes - 1),
        ("max_prompt_tokens", 3),
        ("max_norm", norm * (1 - 1e-9)),
    ):
        with pytest.raises(InvalidPromptError) as caught:
            read_prompt(data, replace(exact, **{limit: less}))
        assert caught.value.limit == less
