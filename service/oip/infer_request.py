"""What an inference request asks for: rows to classify and outputs to return."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from service.oip.content import InferContent
from service.oip.errors import bad_infer
from service.oip.tensors import BinaryData, encoded_images, normalised_pixels, read_input
from service.problems import problem_error

OUTPUTS = ("probabilities", "label", "features")
DEFAULT_OUTPUTS = ("probabilities", "label")
MAX_ID_CHARACTERS = 256
MAX_INFER_JSON_BYTES = 32_000_000
"""Reading JSON blocks the whole process, for about a third of a second at this size."""

SPARE_VALUES = 10_000
"""JSON values beyond those of the largest tensor: names, shapes, parameters."""


@dataclass(frozen=True)
class WantedOutput:
    """One output of the reply.

    Attributes:
        name: One of `OUTPUTS`.
        binary: As bytes behind the JSON instead of as a list in it.
        classification: Return the k most probable classes as text instead; 0 for the tensor.
    """

    name: str
    binary: bool
    classification: int = 0


@dataclass(frozen=True)
class InferRequest:
    """An inference request that fits the protocol and the model's signature.

    Attributes:
        id: The client's own, returned to it.
        rows: Encoded images, or normalised pixels (3, H, W) float32.
        outputs: What to return, in this order.
    """

    id: str | None
    rows: Sequence[bytes | np.ndarray]
    outputs: tuple[WantedOutput, ...]

    @property
    def wants_features(self) -> bool:
        """Whether features are among the outputs."""
        return any(output.name == "features" for output in self.outputs)


def parse_infer_request(
    content: InferContent, *, image_size_px: int, max_images: int
) -> InferRequest:
    """Read an inference request.

    Args:
        content: The body; without JSON it is one encoded image.
        image_size_px: Side of the square `pixels` input.
        max_images: At most so many rows.

    Raises:
        ProblemError: 400, naming what does not fit, or 413 for too much JSON.
    """
    if content.header is None:
        if not len(content.binary):
            raise bad_infer("the body holds no image")
        return InferRequest(None, [bytes(content.binary)], _default_outputs(binary=True))
    if len(content.header) > MAX_INFER_JSON_BYTES:
        raise problem_error(
            413,
            "body-too-large",
            "The body is too large",
            f"the request has {len(content.header)} bytes of JSON; the limit is "
            f"{MAX_INFER_JSON_BYTES}, and images and pixels may be sent as binary data",
            field="body",
            limit=MAX_INFER_JSON_BYTES,
        )
    header = bytes(content.header)
    _check_size(header, num_rows=max_images, side_px=image_size_px)
    document = _document(header)
    parameters = _object(document, "parameters")
    rows = _rows(document, BinaryData(content.binary), image_size_px, max_images)
    binary = parameters.get("binary_data_output", False)
    if not isinstance(binary, bool):
        raise bad_infer("parameter binary_data_output is neither true nor false")
    return InferRequest(_id(document), rows, _outputs(document, binary=binary))


def _check_size(header: bytes, *, num_rows: int, side_px: int) -> None:
    """Refuse JSON of more values than the largest tensor has: each takes many times its text."""
    max_values = num_rows * 3 * side_px**2 + SPARE_VALUES
    max_containers = num_rows * (1 + 3 * (1 + side_px)) + SPARE_VALUES
    num_values, num_containers = header.count(b","), header.count(b"[") + header.count(b"{")
    if num_values > max_values or num_containers > max_containers:
        raise bad_infer(
            f"the JSON has {num_values} values and {num_containers} lists and objects; the limits "
            f"are {max_values} and {max_containers}"
        )


def _document(header: bytes) -> dict[str, Any]:
    try:
        document = msgspec.json.decode(header)
    except (ValueError, RecursionError) as error:
        raise bad_infer(
            f"the request is not JSON, which has no NaN and no infinity: {str(error)[:128]}; for a "
            "body that is one image send Inference-Header-Content-Length: 0"
        ) from error
    if not isinstance(document, dict):
        raise bad_infer("the request is not a JSON object")
    return document


def _rows(
    document: dict[str, Any], binary: BinaryData, image_size_px: int, max_images: int
) -> Sequence[bytes | np.ndarray]:
    inputs = document.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1:
        raise bad_infer('expected one input, "image" or "pixels"')
    tensor = read_input(inputs[0], binary)
    binary.finish()
    if not 1 <= (tensor.shape[0] if tensor.shape else 0) <= max_images:
        raise bad_infer(
            f"input {tensor.name!r} has shape {list(tensor.shape)}; the first dimension must be "
            f"1 to {max_images}"
        )
    if tensor.name == "image":
        return encoded_images(tensor)
    if tensor.name == "pixels":
        return normalised_pixels(tensor, image_size_px)
    raise bad_infer(f'there is no input {tensor.name!r}; expected "image" or "pixels"')


def _outputs(document: dict[str, Any], *, binary: bool) -> tuple[WantedOutput, ...]:
    wanted = document.get("outputs")
    if wanted is None or wanted == []:
        return _default_outputs(binary=binary)
    if not isinstance(wanted, list) or len(wanted) > len(OUTPUTS):
        raise bad_infer(f"outputs is not a list of at most {len(OUTPUTS)} outputs")
    outputs = tuple(_output(item, binary=binary) for item in wanted)
    if len({output.name for output in outputs}) != len(outputs):
        raise bad_infer("an output is asked for twice")
    return outputs


def _output(item: object, *, binary: bool) -> WantedOutput:
    name = item.get("name") if isinstance(item, dict) else None
    if not isinstance(item, dict) or name not in OUTPUTS:
        raise bad_infer(f"there is no output {str(name)[:64]!r}; outputs are {', '.join(OUTPUTS)}")
    parameters = _object(item, "parameters")
    as_binary = parameters.get("binary_data", binary)
    classes = parameters.get("classification", 0)
    if not isinstance(as_binary, bool):
        raise bad_infer(f"parameter binary_data of output {name!r} is neither true nor false")
    if not isinstance(classes, int) or isinstance(classes, bool) or classes < 0:
        raise bad_infer(f"parameter classification of output {name!r} is not a whole number")
    if classes and name != "probabilities":
        raise bad_infer(f"output {name!r} has no classification; only probabilities has")
    return WantedOutput(name, as_binary, classes)


def _default_outputs(*, binary: bool) -> tuple[WantedOutput, ...]:
    return tuple(WantedOutput(name, binary) for name in DEFAULT_OUTPUTS)


def _id(document: dict[str, Any]) -> str | None:
    found = document.get("id")
    if found is not None and (not isinstance(found, str) or len(found) > MAX_ID_CHARACTERS):
        raise bad_infer(f"id is not a text of at most {MAX_ID_CHARACTERS} characters")
    return found


def _object(document: dict[str, Any], key: str) -> dict[str, Any]:
    found = document.get(key)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise bad_infer(f"{key} is not an object")
    return found
