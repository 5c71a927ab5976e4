"""Hostile prompt files: what an upload may try, and how each attempt ends.

Every file goes the way of an upload (`read_upload`, then `PromptRegistry.put`). It must end in an
error that names the value and, where there is one, the limit; nothing may be stored; and memory
must stay within what the file's size justifies.
"""

import io
import json
import pickle
import struct
import tracemalloc
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import safetensors
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prompt_store.blobs import BlobStore
from prompt_store.codec import (
    BackboneShape,
    PromptFile,
    PromptLimits,
    read_prompt,
    write_prompt,
)
from prompt_store.errors import InvalidPromptError, PromptTooLargeError
from prompt_store.manifests import PromptManifest
from prompt_store.objects import open_object_store
from prompt_store.registry import PromptRegistry
from prompt_store.uploads import read_upload

LIMITS = PromptLimits()
DIGEST, OTHER_DIGEST = f"sha256:{'b' * 64}", f"sha256:{'c' * 64}"
BACKBONE = BackboneShape(digest=DIGEST, embed_dim=6, depth=3)
METADATA = {"backbone_digest": DIGEST}
MEMORY_LIMIT_BYTES = 4_000_000  # what 64 KiB of JSON can become, whatever the file declares


def raw(header: bytes, body: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + body


def packed(header: object, body: bytes = b"") -> bytes:
    return raw(json.dumps(header).encode(), body)


def entry(shape: object, begin: object, end: object, dtype: object = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def one(prompt: object, body: bytes = b"", **metadata: object) -> bytes:
    """A file with just this header entry for `prompt_embeddings`."""
    return packed({"__metadata__": METADATA | metadata, "prompt_embeddings": prompt}, body)


def valued(values: np.ndarray, dtype: str = "F32", **metadata: str) -> bytes:
    """A well-formed file around these values."""
    body = values.tobytes()
    return one(entry(list(values.shape), 0, len(body), dtype), body, **metadata)


def with_head(*shapes: tuple[str, tuple[int, ...]], **metadata: str) -> bytes:
    """A well-formed prompt of one token with further tensors of ones."""
    header: dict[str, object] = {"__metadata__": METADATA | metadata}
    body = b""
    for name, shape in (("prompt_embeddings", (1, 6)), *shapes):
        part = np.ones(shape, np.float32).tobytes()
        header[name] = entry(list(shape), len(body), len(body) + len(part))
        body += part
    return packed(header, body)


def spoiled(value: float, dtype: type = np.float32) -> np.ndarray:
    """Values that are ones but for one, at [0, 1, 2]."""
    values = np.ones((1, 2, 6), dtype)
    values[0, 1, 2] = value
    return values


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("data.pkl", b"x")
    return file.getvalue()


def two_tensors(first: dict[str, object], second: dict[str, object], body_bytes: int) -> bytes:
    header = {"__metadata__": METADATA, "prompt_embeddings": first, "head.weight": second}
    return packed(header, b"\0" * body_bytes)


BOMB = b'{"prompt_embeddings":' + b"[" * 60_000
BF16_NAN = np.full((1, 6), 0x7FC0, np.uint16)
GOOD = np.ones((2, 6), np.float32)

# name: (file, field at fault, reason)
ATTACKS: dict[str, tuple[bytes, str, str]] = {
    # -- not the format at all
    "empty": (b"", "header", "the file has 0 bytes, too few for the 8 of a header length"),
    "seven-bytes": (b"\0" * 7, "header", "the file has 7 bytes, too few"),
    "pickle": (
        pickle.dumps({"a": 1}),
        "header",
        r"not a safetensors file, .*: the header has \d+ bytes; the limit is 65536",
    ),
    "zip-of-a-pickle": (
        zipped(),
        "adapter_model.safetensors",
        "the zip file holds adapter_model.safetensors 0 times",
    ),
    # -- header bombs
    "header-of-2-to-the-64": (
        b"\xff" * 8 + b"{}",
        "header",
        "the header has 18446744073709551615 bytes; the limit is 65536",
    ),
    "header-one-byte-too-long": (
        raw(b"{}" + b" " * 65_535),
        "header",
        "the header has 65537 bytes; the limit is 65536",
    ),
    "header-longer-than-the-file": (
        struct.pack("<Q", 100) + b"{}",
        "header",
        "the header has 100 bytes, but the file ends after 10",
    ),
    "nesting-bomb": (raw(BOMB), "header", "the header is nested too deeply"),
    "integer-bomb": (
        raw(b'{"prompt_embeddings":' + b"9" * 5000 + b"}"),
        "header",
        "the header is not JSON: 'Exceeds the limit",
    ),
    "five-thousand-tensors": (
        packed({f"t{i}": {} for i in range(5_000)}),
        "t0",
        "tensor 't0' is not known; known are prompt_embeddings, head.weight, head.bias",
    ),
    # -- not quite JSON
    "empty-header": (raw(b""), "header", "the header begins with b'', not with an opening brace"),
    "leading-space": (raw(b" {}"), "header", "the header begins with b' {}', not with"),
    "a-list": (raw(b"[]"), "header", "not with an opening brace"),
    "not-json": (raw(b'{"a":}'), "header", "the header is not JSON: 'Expecting value"),
    "two-documents": (raw(b"{}{}"), "header", "the header is not JSON: 'Extra data"),
    "not-utf8": (raw(b'{"\xff":1}'), "header", "the header is not JSON: .*utf-8"),
    "nul-padding": (raw(b"{}\0\0"), "header", "the header is not JSON: 'Extra data"),
    "nan-literal": (raw(b'{"a":NaN}'), "header", "the header holds NaN, which is not JSON"),
    # -- the same key twice
    "tensor-twice": (
        raw(b'{"prompt_embeddings":{},"prompt_embeddings":{}}'),
        "header",
        "the header repeats the key 'prompt_embeddings'",
    ),
    "tensor-twice-by-escape": (
        raw(rb'{"head.bias":{},"\u0068ead.bias":{}}'),
        "header",
        "the header repeats the key 'head.bias'",
    ),
    "metadata-twice": (
        raw(b'{"__metadata__":{"a":"1","a":"2"}}'),
        "header",
        "the header repeats the key 'a'",
    ),
    "shape-twice": (
        raw(b'{"prompt_embeddings":{"shape":[1],"shape":[2]}}'),
        "header",
        "the header repeats the key 'shape'",
    ),
    # -- metadata
    "metadata-a-list": (packed({"__metadata__": []}), "__metadata__", r"is \[\], not an object"),
    "metadata-a-number": (
        packed({"__metadata__": {"seed": 1}}),
        "__metadata__",
        "metadata 'seed' is 1, not a string",
    ),
    "metadata-half-a-surrogate": (
        raw(rb'{"__metadata__":{"a":"\ud800"}}'),
        "__metadata__",
        "metadata 'a' holds half of a surrogate pair",
    ),
    # -- the wrong backbone
    "other-backbone": (
        valued(GOOD, backbone_digest=OTHER_DIGEST),
        "backbone_digest",
        f"was trained on backbone {OTHER_DIGEST}; the backbone here is {DIGEST}",
    ),
    "no-backbone": (
        packed({"prompt_embeddings": entry([2, 6], 0, 48)}, GOOD.tobytes()),
        "backbone_digest",
        f"metadata backbone_digest is missing; .*set it to {DIGEST}",
    ),
    "not-a-digest": (
        valued(GOOD, backbone_digest="sha256:12"),
        "backbone_digest",
        "metadata backbone_digest is 'sha256:12'; expected sha256: and 64 hexadecimal digits",
    ),
    "forged-origin": (
        valued(GOOD, original_digest="../../etc"),
        "original_digest",
        "metadata original_digest is '../../etc'",
    ),
    # -- names, dtypes and properties
    "unknown-tensor": (
        two_tensors(entry([2, 6], 0, 48), {}, 48).replace(b"head.weight", b"head.wEight"),
        "head.wEight",
        "tensor 'head.wEight' is not known",
    ),
    "very-long-name": (packed({"x" * 60_000: {}}), "x" * 64, "is not known; known are"),
    "no-prompt": (
        packed({"__metadata__": METADATA}),
        "prompt_embeddings",
        "tensor prompt_embeddings is missing",
    ),
    "property-too-many": (
        one(entry([2, 6], 0, 48) | {"strides": [1]}),
        "prompt_embeddings",
        "must have exactly dtype, shape and data_offsets",
    ),
    "property-missing": (
        one({"dtype": "F32", "shape": [2, 6]}),
        "prompt_embeddings",
        "must have exactly dtype, shape and data_offsets",
    ),
    "not-an-object": (one([]), "prompt_embeddings", "must have exactly dtype, shape"),
    "f64": (
        one(entry([2, 6], 0, 96, "F64"), b"\0" * 96),
        "prompt_embeddings",
        "dtype 'F64' is not one of F32, F16, BF16",
    ),
    "dtype-a-list": (one(entry([2, 6], 0, 48, ["F32"])), "prompt_embeddings", r"dtype \['F32'\]"),
    # -- shapes
    "shape-a-string": (
        one(entry("26", 0, 48)),
        "prompt_embeddings",
        "shape '26' is not a list of integers",
    ),
    "shape-negative": (
        one(entry([-2, -6], 0, 48)),
        "prompt_embeddings",
        "shape holds -2, which is not within 0 to 1099511627776",
    ),
    "shape-a-float": (one(entry([2.0, 6], 0, 48)), "prompt_embeddings", "shape holds 2.0, not an"),
    "shape-a-boolean": (one(entry([True, 6], 0, 24)), "prompt_embeddings", "shape holds True, not"),
    "shape-infinite": (
        raw(b'{"prompt_embeddings":{"dtype":"F32","shape":[1e999],"data_offsets":[0,4]}}'),
        "prompt_embeddings",
        "shape holds inf, not an integer",
    ),
    "shape-overflows-64-bits": (
        one(entry([2**63, 2], 0, 0)),
        "prompt_embeddings",
        "shape holds 9223372036854775808, which is not within 0 to",
    ),
    "shape-of-4000-digits": (
        one(entry([int("9" * 4000), 6], 0, 0)),
        "prompt_embeddings",
        "shape holds 9{80}…, which is not within",
    ),
    "too-many-dimensions": (
        one(entry([1] * 20_000, 0, 4)),
        "prompt_embeddings",
        "has 20000 dimensions; the limit is 3",
    ),
    "no-dimensions": (one(entry([], 0, 4)), "prompt_embeddings", r"shape \[\]; expected \(P, D\)"),
    "one-dimension": (one(entry([6], 0, 24)), "prompt_embeddings", r"shape \[6\]; expected"),
    "wrong-width": (
        valued(np.ones((2, 5), np.float32)),
        "prompt_embeddings",
        r"of shape \[1, 2, 5\] has width 5; the backbone's is 6",
    ),
    "wrong-depth": (
        valued(np.ones((2, 2, 6), np.float32)),
        "prompt_embeddings",
        r"of shape \[2, 2, 6\] has depth 2; it must be 1 or the backbone's 3",
    ),
    "no-layers": (one(entry([0, 2, 6], 0, 0)), "prompt_embeddings", r"shape \[0, 2, 6\]; expected"),
    "no-tokens": (
        valued(np.ones((0, 6), np.float32)),
        "prompt_embeddings",
        r"of shape \[1, 0, 6\] has 0 prompt tokens; it must have 1 to 512",
    ),
    "one-token-too-many": (
        valued(np.ones((513, 6), np.float32)),
        "prompt_embeddings",
        "has 513 prompt tokens; it must have 1 to 512",
    ),
    "a-billion-tokens": (
        one(entry([10**9, 6], 0, 24 * 10**9)),
        "prompt_embeddings",
        "has 1000000000 prompt tokens; it must have 1 to 512",
    ),
    # -- offsets
    "offsets-reversed": (
        one(entry([2, 6], 48, 0), b"\0" * 48),
        "prompt_embeddings",
        r"data_offsets \[48, 0\] are not a begin and an end",
    ),
    "offsets-of-three": (
        one({"dtype": "F32", "shape": [2, 6], "data_offsets": [0, 48, 96]}),
        "prompt_embeddings",
        r"data_offsets \[0, 48, 96\] are not a begin and an end",
    ),
    "offsets-negative": (
        one(entry([2, 6], -48, 0), b"\0" * 48),
        "prompt_embeddings",
        "data_offsets holds -48, which is not within 0 to",
    ),
    "offsets-beyond-the-file": (
        one(entry([2, 6], 0, 48), b"\0" * 47),
        "prompt_embeddings",
        r"data_offsets \[0, 48\] reach beyond the 47 bytes of data",
    ),
    "offsets-do-not-fit-the-shape": (
        one(entry([2, 6], 0, 40), b"\0" * 40),
        "prompt_embeddings",
        r"F32 of shape \[2, 6\] takes 48 bytes, but its data_offsets are \[0, 40\]",
    ),
    "offsets-span-more-than-the-shape": (
        one(entry([2, 6], 0, 56), bytes(56)),
        "prompt_embeddings",
        r"F32 of shape \[2, 6\] takes 48 bytes, but its data_offsets are \[0, 56\]",
    ),
    "offsets-leave-a-hole-in-front": (
        one(entry([2, 6], 8, 56), b"\0" * 56),
        "prompt_embeddings",
        r"data_offsets \[8, 56\] leave a hole: this tensor must begin at byte 0",
    ),
    "offsets-leave-a-hole": (
        two_tensors(entry([2, 6], 0, 48), entry([1, 6], 52, 76), 76),
        "head.weight",
        r"data_offsets \[52, 76\] leave a hole: this tensor must begin at byte 48",
    ),
    "offsets-overlap": (
        two_tensors(entry([2, 6], 0, 48), entry([1, 6], 40, 64), 64),
        "head.weight",
        r"data_offsets \[40, 64\] overlap: this tensor must begin at byte 48",
    ),
    "two-tensors-in-one-place": (
        two_tensors(entry([1, 6], 0, 24), entry([1, 6], 0, 24), 24),
        "head.weight",
        r"data_offsets \[0, 24\] overlap",
    ),
    "bytes-behind-the-tensors": (
        valued(GOOD) + b"#!/bin/sh",
        "data_offsets",
        "the file has 57 bytes of data, but its tensors end at 48",
    ),
    # -- values
    "nan": (valued(spoiled(np.nan)), "prompt_embeddings", r"\[0, 1, 2\] is nan; every value must"),
    "infinity": (valued(spoiled(-np.inf)), "prompt_embeddings", r"\[0, 1, 2\] is -inf"),
    "f16-infinity": (
        valued(spoiled(np.inf, np.float16), "F16"),
        "prompt_embeddings",
        r"\[0, 1, 2\] is inf",
    ),
    "bf16-nan": (valued(BF16_NAN, "BF16"), "prompt_embeddings", r"\[0, 0\] is nan"),
    "huge-value": (
        valued(spoiled(3e38)),
        "prompt_embeddings",
        r"row 1 has norm 3e\+38; the limit is 10000",
    ),
    # -- heads and classes
    "bias-without-weight": (
        with_head(("head.bias", (2,))),
        "head.bias",
        "head.bias comes without head.weight",
    ),
    "head-of-another-width": (
        with_head(("head.weight", (2, 5))),
        "head.weight",
        r"head.weight has shape \[2, 5\]; expected \[2, 6\]",
    ),
    "head-of-no-classes": (
        with_head(("head.weight", (0, 6))),
        "head.weight",
        r"head.weight has shape \[0, 6\]; expected \[1, 6\]",
    ),
    "head-without-classes-dimension": (with_head(("head.weight", (6,))), "head.weight", "expected"),
    "bias-of-another-length": (
        with_head(("head.weight", (2, 6)), ("head.bias", (3,))),
        "head.bias",
        r"head.bias has shape \[3\]; expected \[2\]",
    ),
    "head-and-classes-disagree": (
        with_head(("head.weight", (2, 6)), classes='["a","b","c"]'),
        "head.weight",
        r"head.weight has shape \[2, 6\]; expected \[3, 6\], for 3 classes",
    ),
    "classes-not-json": (valued(GOOD, classes="a,b"), "classes", "classes is 'a,b', not a JSON"),
    "classes-nested": (valued(GOOD, classes="[" * 30_000), "classes", "not a JSON list"),
    "classes-an-object": (valued(GOOD, classes="{}"), "classes", "classes is {}, not a list"),
    "classes-empty": (
        valued(GOOD, classes="[]"),
        "classes",
        "has 0 names; it must have 1 to 10000",
    ),
    "classes-repeated": (valued(GOOD, classes='["a","a"]'), "classes", "classes repeats 'a'"),
    "class-a-number": (valued(GOOD, classes="[1]"), "classes", "holds 1, not a string of 1 to 256"),
    "class-without-name": (valued(GOOD, classes='[""]'), "classes", "holds '', not a string"),
    "class-too-long": (
        valued(GOOD, classes=json.dumps(["x" * 257])),
        "classes",
        "not a string of 1 to 256 characters",
    ),
    "class-half-a-surrogate": (
        valued(GOOD, classes=r'["\ud800"]'),
        "classes",
        "holds half of a surrogate pair",
    ),
    "eleven-thousand-classes": (
        valued(GOOD, classes=json.dumps(list(range(11_000)), separators=(",", ":"))),
        "classes",
        "classes has 11000 names; it must have 1 to 10000",
    ),
    # -- two layouts at once
    "native-and-foreign": (
        two_tensors(entry([1, 6], 0, 24), entry([1, 6], 24, 48), 48).replace(
            b"head.weight", b"deep_prompt"
        ),
        "prompt_embeddings",
        "tensor 'prompt_embeddings' is not known; known are shallow_prompt, deep_prompt",
    ),
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def registry(root: Path) -> PromptRegistry:
    objects = open_object_store(root.as_uri())
    return PromptRegistry(objects, BlobStore(objects), lambda: datetime.now(UTC))


def upload(registry: PromptRegistry, source: bytes | Path) -> PromptManifest:
    content, prompt = read_upload(source, LIMITS, BACKBONE)
    return registry.put("hostile", content, prompt)[0]


def stored_files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


@contextmanager
def bounded_memory(limit_bytes: int) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < limit_bytes, f"{peak_bytes} bytes were allocated"


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_hostile_file_is_refused_by_name(
    root: Path, registry: PromptRegistry, attack: str
) -> None:
    data, field, reason = ATTACKS[attack]
    with (
        bounded_memory(MEMORY_LIMIT_BYTES),
        pytest.raises(InvalidPromptError, match=reason) as caught,
    ):
        upload(registry, data)
    assert caught.value.field == field
    assert len(str(caught.value)) < 400  # whatever the file holds, a message stays a message
    assert "\n" not in str(caught.value)
    assert stored_files(root) == []
    assert registry.list().items == ()


def test_the_frame_of_the_attacks_is_accepted(registry: PromptRegistry) -> None:
    # So that each attack above fails by its own fault.
    for number, data in enumerate(
        [
            valued(GOOD),
            valued(np.ones((512, 6), np.float32)),
            valued(np.ones((3, 2, 6), np.float16), "F16"),
            valued(np.full((1, 6), 0x3F80, np.uint16), "BF16"),
            with_head(("head.weight", (2, 6)), ("head.bias", (2,)), classes='["a","b"]'),
            two_tensors(entry([2, 6], 0, 48), entry([1, 6], 48, 72), 72),
            raw(valued(GOOD)[8:-48] + b" " * 99, GOOD.tobytes()),
        ],
        start=1,
    ):
        assert upload(registry, data).version == number


def test_a_file_above_the_total_limit_is_not_even_read(
    root: Path, registry: PromptRegistry, tmp_path: Path
) -> None:
    path = tmp_path / "upload"
    with path.open("wb") as file:
        file.write(valued(GOOD))
        file.truncate(2**42)  # sparse
    with (
        bounded_memory(MEMORY_LIMIT_BYTES),
        pytest.raises(PromptTooLargeError, match=f"has {2**42} bytes; the limit is 16000000") as e,
    ):
        upload(registry, path)
    assert (e.value.field, e.value.limit) == ("file", 16_000_000)
    assert stored_files(root) == []


def test_the_largest_file_allowed_takes_a_small_multiple_of_its_size() -> None:
    wide = BackboneShape(DIGEST, embed_dim=15_000, depth=1)
    data = valued(np.ones((512, 15_000), np.float16), "F16")
    assert 15_000_000 < len(data) <= LIMITS.max_bytes
    with bounded_memory(6 * LIMITS.max_bytes):
        read_upload(data, LIMITS, wide)


def check_that_it_is_refused_or_harmless(data: bytes) -> None:
    """Refused with a reason, or a prompt that fits, which other readers take for the same."""
    try:
        content, prompt = read_upload(data, LIMITS, BACKBONE)
    except InvalidPromptError:
        return
    assert prompt.prompt_embeddings.shape[0] in (1, 3)
    assert prompt.prompt_embeddings.shape[2] == 6
    assert np.isfinite(prompt.prompt_embeddings).all()
    theirs = {name: spec["shape"] for name, spec in safetensors.deserialize(content)}
    assert np.prod(theirs["prompt_embeddings"]) == prompt.prompt_embeddings.size
    again = read_prompt(write_prompt(prompt), LIMITS, BACKBONE)
    np.testing.assert_array_equal(again.prompt_embeddings, prompt.prompt_embeddings)


fuzzed = settings(max_examples=120, suppress_health_check=[HealthCheck.too_slow], deadline=None)


@fuzzed
@given(st.binary(max_size=200))
def test_random_bytes(data: bytes) -> None:
    check_that_it_is_refused_or_harmless(data)


@fuzzed
@given(st.binary(max_size=200), st.binary(max_size=50))
def test_random_headers(header: bytes, body: bytes) -> None:
    check_that_it_is_refused_or_harmless(raw(b"{" + header, body))


VALID = write_prompt(
    PromptFile(
        prompt_embeddings=np.ones((1, 2, 6), np.float32),
        head_weight=np.ones((2, 6), np.float32),
        head_bias=np.ones(2, np.float32),
        metadata=METADATA | {"classes": '["a","b"]', "site": "x"},
    )
)


@fuzzed
@given(
    st.lists(
        st.tuples(st.integers(0, len(VALID) - 1), st.integers(0, 2), st.binary(max_size=3)),
        min_size=1,
        max_size=4,
    )
)
def test_valid_files_with_bytes_replaced(edits: list[tuple[int, int, bytes]]) -> None:
    data = bytearray(VALID)
    for position, removed, inserted in edits:
        data[position : position + removed] = inserted
    check_that_it_is_refused_or_harmless(bytes(data))


extents = st.one_of(st.integers(0, 8), st.integers(-(2**70), 2**70), st.sampled_from([24, 48, 512]))
json_values = st.recursive(
    st.none() | st.booleans() | extents | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F16", "BF16", "F64"]) | json_values,
        "shape": st.lists(extents | st.just(6), max_size=4) | json_values,
        "data_offsets": st.lists(extents, max_size=3) | json_values,
    }
)
names = st.sampled_from(
    ["prompt_embeddings", "head.weight", "head.bias", "shallow_prompt", "deep_prompt"]
)


@fuzzed
@given(st.dictionaries(names | st.text(max_size=5), entries | json_values), st.binary(max_size=96))
def test_headers_that_are_nearly_right(header: dict[str, object], body: bytes) -> None:
    check_that_it_is_refused_or_harmless(packed({"__metadata__": METADATA} | header, body))
