import json
from typing import Any

import pytest

from service.oip.content import InferContent
from service.oip.infer_request import (
    DEFAULT_OUTPUTS,
    InferRequest,
    WantedOutput,
    parse_infer_request,
)
from service.problems import ProblemError


def parsed(document: dict[str, Any]) -> InferRequest:
    content = InferContent(memoryview(json.dumps(document).encode()), memoryview(b""))
    return parse_infer_request(content, image_size_px=32, max_images=4)


def image(**fields: Any) -> dict[str, Any]:
    return {"name": "image", "datatype": "BYTES", "shape": [1], "data": ["aaaa"], **fields}


def test_null_stands_for_what_is_left_out() -> None:
    request = parsed(
        {"id": None, "parameters": None, "inputs": [image(parameters=None)], "outputs": None}
    )
    assert request.id is None
    assert request.outputs == tuple(WantedOutput(name, binary=False) for name in DEFAULT_OUTPUTS)
    request = parsed({"inputs": [image()], "outputs": [{"name": "label", "parameters": None}]})
    assert request.outputs == (WantedOutput("label", binary=False),)


@pytest.mark.parametrize("parameters", [[], False, 0, "", "x"])
def test_other_parameters_than_an_object_are_refused(parameters: object) -> None:
    documents: tuple[dict[str, Any], ...] = (
        {"inputs": [image()], "parameters": parameters},
        {"inputs": [image()], "outputs": [{"name": "label", "parameters": parameters}]},
    )
    for document in documents:
        with pytest.raises(ProblemError, match="parameters"):
            parsed(document)


NUM_VALUES = 3 * 32 * 32


@pytest.mark.parametrize(
    "data",
    [
        ["0.5"] * NUM_VALUES,
        [True] * NUM_VALUES,
        [None] * NUM_VALUES,
        [*[0.5] * (NUM_VALUES - 1), "0.5"],
        [*[0.5] * (NUM_VALUES - 1), None],
        [*[0.5] * (NUM_VALUES - 1), [0.5]],
    ],
)
def test_pixels_are_numbers_and_nothing_that_could_be_read_as_such(data: list[object]) -> None:
    tensor = {"name": "pixels", "datatype": "FP32", "shape": [1, 3, 32, 32]}
    assert len(parsed({"inputs": [{**tensor, "data": [1] * NUM_VALUES}]}).rows) == 1
    with pytest.raises(ProblemError, match="input 'pixels' is not an array of numbers"):
        parsed({"inputs": [{**tensor, "data": data}]})


@pytest.mark.parametrize("shape", [[-1], [1 << 31], ["1"], [1.0], [True], [1] * 9, 1])
def test_a_shape_that_is_none_is_told_what_one_is(shape: object) -> None:
    with pytest.raises(ProblemError, match="at most 8 whole numbers from 0 to 2147483647"):
        parsed({"inputs": [image(shape=shape)]})
