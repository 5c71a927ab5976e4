from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.numpy
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.torch import save as save_torch

from prompt_store.errors import InvalidPromptError, PromptTooLargeError
from prompt_store.tensor_file import (
    ITEM_BYTES,
    TensorFile,
    parse_tensor_file,
    read_limited,
    serialize_tensor_file,
)

NAMES = ("a", "b", "c")
NUMPY = {"F64": np.float64, "F32": np.float32, "F16": np.float16}

metadata_strategy = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    max_size=4,
)


@st.composite
def tensors_strategy(draw: st.DrawFn) -> dict[str, tuple[str, np.ndarray]]:
    found: dict[str, tuple[str, np.ndarray]] = {}
    for name in draw(st.sets(st.sampled_from(NAMES), min_size=1)):
        dtype = draw(st.sampled_from(sorted(NUMPY)))
        shape = draw(hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=4))
        found[name] = (dtype, draw(hnp.arrays(NUMPY[dtype], shape)))
    return found


def parse(data: bytes) -> TensorFile:
    return parse_tensor_file(data, max_header_bytes=65_536, dtypes=tuple(ITEM_BYTES), names=NAMES)


@given(tensors_strategy(), metadata_strategy)
def test_what_is_written_is_read_back(
    tensors: dict[str, tuple[str, np.ndarray]], metadata: dict[str, str]
) -> None:
    file = parse(serialize_tensor_file(tensors, metadata))
    assert file.metadata == metadata
    arrays = file.arrays()
    assert set(arrays) == set(tensors)
    for name, (dtype, array) in tensors.items():
        np.testing.assert_array_equal(arrays[name], array)
        assert arrays[name].shape == array.shape
        assert arrays[name].dtype == (np.float64 if dtype == "F64" else np.float32)


@given(tensors_strategy(), metadata_strategy)
def test_the_reference_library_reads_what_is_written(
    tensors: dict[str, tuple[str, np.ndarray]], metadata: dict[str, str]
) -> None:
    theirs = safetensors.numpy.load(serialize_tensor_file(tensors, metadata))
    assert set(theirs) == set(tensors)
    for name, (dtype, array) in tensors.items():
        np.testing.assert_array_equal(theirs[name], array)
        assert theirs[name].dtype == NUMPY[dtype]


@given(tensors_strategy(), metadata_strategy)
def test_what_the_reference_library_writes_is_read(
    tensors: dict[str, tuple[str, np.ndarray]], metadata: dict[str, str]
) -> None:
    data = safetensors.numpy.save({name: array for name, (_, array) in tensors.items()}, metadata)
    file = parse(data)
    assert file.metadata == metadata
    for name, array in file.arrays().items():
        np.testing.assert_array_equal(array, tensors[name][1])


@given(tensors_strategy(), metadata_strategy, st.randoms())
def test_the_order_of_the_input_does_not_change_the_bytes(
    tensors: dict[str, tuple[str, np.ndarray]], metadata: dict[str, str], random: st.DataObject
) -> None:
    shuffled, keys = list(tensors), list(metadata)
    random.shuffle(shuffled)
    random.shuffle(keys)
    assert serialize_tensor_file(tensors, metadata) == serialize_tensor_file(
        {name: tensors[name] for name in shuffled}, {key: metadata[key] for key in keys}
    )


def test_the_bytes_are_these() -> None:
    tensors = {"b": ("F16", np.ones((1, 1))), "a": ("F16", np.zeros(2)), "c": ("F32", np.ones(1))}
    header = (
        b'{"__metadata__":{"k":"\xc3\xbc"},"c":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
        b'"a":{"dtype":"F16","shape":[2],"data_offsets":[4,8]},'
        b'"b":{"dtype":"F16","shape":[1,1],"data_offsets":[8,10]}}'
    )
    header += b" " * (-len(header) % 8)
    body = b"\x00\x00\x80\x3f" + b"\x00" * 4 + b"\x00\x3c"
    expected = len(header).to_bytes(8, "little") + header + body
    assert serialize_tensor_file(tensors, {"k": "ü"}) == expected


def test_every_value_of_bf16_is_decoded_as_torch_does() -> None:
    bits = torch.arange(2**16, dtype=torch.int32).to(torch.uint16)
    values = bits.view(torch.bfloat16)
    decoded = parse(save_torch({"a": values})).arrays()["a"]
    np.testing.assert_array_equal(decoded, values.float().numpy())


def test_non_contiguous_and_big_endian_arrays_are_written_as_their_values() -> None:
    array = np.arange(6, dtype=">f4").reshape(2, 3).T
    decoded = parse(serialize_tensor_file({"a": ("F32", array)}, {})).arrays()["a"]
    np.testing.assert_array_equal(decoded, array)


def test_a_value_that_does_not_fit_is_refused() -> None:
    with pytest.raises(InvalidPromptError, match=r"a holds 70000, .* F16; the limit is 65504") as e:
        serialize_tensor_file({"a": ("F16", np.array([1.0, -70000.0]))}, {})
    assert (e.value.field, e.value.limit) == ("a", 65504)


def test_a_file_above_the_limit_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(2**40)  # a terabyte, were it read
    with pytest.raises(PromptTooLargeError, match=f"has {2**40} bytes; the limit is 1000"):
        read_limited(path, 1000)
    with pytest.raises(PromptTooLargeError, match="has 1001 bytes; the limit is 1000"):
        read_limited(b"x" * 1001, 1000)
    assert read_limited(b"x" * 1000, 1000) == b"x" * 1000
