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
