"""The reply to an inference request, as JSON or with binary tensors behind it."""

import gzip
import json
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from starlette.datastructures import Headers
from starlette.responses import Response

from service.inference.resolver import Served
from service.inference.rows import RowResult
from service.oip.content import HEADER_LENGTH
from service.oip.infer_request import InferRequest, WantedOutput

MIN_COMPRESSED_BYTES = 1024
"""Smaller replies are not worth compressing; a client that accepts gzip accepts plain ones too."""

_FAST = 1
_LENGTH = struct.Struct("<I")


def infer_response(
    request: InferRequest,
    model: str,
    served: Served,
    classes: Sequence[str],
    results: Sequence[RowResult],
    headers: Headers,
) -> Response:
    """Write the reply.

    Args:
        request: What was asked for.
        model: The model's name as the client wrote it.
        served: The version that answered.
        classes: Label of each index.
        results: One for each row, in order.
        headers: The request's; they say which compression is accepted.
    """
    buffers: list[bytes] = []
    outputs = [_output(wanted, classes, results, buffers) for wanted in request.outputs]
    document: dict[str, Any] = {
        "model_name": model,
        "model_version": str(served.version),
        "parameters": {"digest": served.digest},
        "outputs": outputs,
    }
    if request.id is not None:
        document["id"] = request.id
    header = json.dumps(document, separators=(",", ":")).encode()
    if not buffers:
        return _compressed(header, {}, "application/json", headers)
    body = b"".join((header, *buffers))
    length = {HEADER_LENGTH: str(len(header))}
    return _compressed(body, length, "application/octet-stream", headers)


def _output(
    wanted: WantedOutput,
    classes: Sequence[str],
    results: Sequence[RowResult],
    buffers: list[bytes],
) -> dict[str, Any]:
    """One element of `outputs`; binary data is appended to `buffers`."""
    if wanted.classification or wanted.name == "label":
        values = _texts(wanted, classes, results)  # (N,) or (N, k)
        datatype, data = "BYTES", _length_prefixed
    else:
        values = np.stack([_numbers(wanted.name, result) for result in results])  # (N, C or D)
        datatype, data = "FP32", _little_endian
    output: dict[str, Any] = {
        "name": wanted.name,
        "datatype": datatype,
        "shape": list(values.shape),
    }
    if wanted.binary:
        buffers.append(data(values))
        output["parameters"] = {"binary_data_size": len(buffers[-1])}
    else:
        output["data"] = values.ravel().tolist()
    return output


def _numbers(name: str, result: RowResult) -> np.ndarray:
    values = result.probabilities if name == "probabilities" else result.features
    if values is None:
        raise AssertionError("features were asked for and not computed")
    return values


def _texts(
    wanted: WantedOutput, classes: Sequence[str], results: Sequence[RowResult]
) -> np.ndarray:
    """Labels (N,), or (N, k) texts "score:index:label", most probable first."""
    if wanted.name == "label":
        return np.array([classes[int(r.probabilities.argmax())] for r in results], dtype=object)
    rows: list[list[str]] = []
    for result in results:
        best = np.argsort(-result.probabilities, kind="stable")[: wanted.classification]
        rows.append([f"{result.probabilities[i]:f}:{i}:{classes[i]}" for i in best])
    return np.array(rows, dtype=object)


def _length_prefixed(values: np.ndarray) -> bytes:
    encoded = [text.encode() for text in values.ravel().tolist()]
    return b"".join(part for text in encoded for part in (_LENGTH.pack(len(text)), text))


def _little_endian(values: np.ndarray) -> bytes:
    return values.astype("<f4", copy=False).tobytes()


def _accepted(accept_encoding: str) -> set[str]:
    """Encodings that are named; `;q=0` rules one out (RFC 9110, 12.5.3)."""
    named = (each.replace(" ", "").partition(";q=") for each in accept_encoding.split(","))
    return {encoding for encoding, _, weight in named if weight.strip("0.") or not weight}


def _compressed(body: bytes, extra: dict[str, str], media_type: str, headers: Headers) -> Response:
    accepted = _accepted(headers.get("accept-encoding", ""))
    if len(body) >= MIN_COMPRESSED_BYTES and "gzip" in accepted:
        body, extra = gzip.compress(body, _FAST, mtime=0), {**extra, "Content-Encoding": "gzip"}
    elif len(body) >= MIN_COMPRESSED_BYTES and "deflate" in accepted:
        body, extra = zlib.compress(body, _FAST), {**extra, "Content-Encoding": "deflate"}
    return Response(body, headers=extra, media_type=media_type)
