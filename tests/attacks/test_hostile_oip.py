"""What a hostile client sends to the inference routes: always a 4xx with the protocol's error."""

import gzip
import json
import resource
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from backbones.info import LoadedBackbone
from jobs.settings import DeploymentSettings
from service.main import build_app
from service.settings import ServiceSettings
from tests.service.oip.conftest import make_artifact, publish

pytestmark = pytest.mark.anyio

LIMIT_BYTES = 1_000_000
LENGTH = "Inference-Header-Content-Length"
INFER = "/v2/models/zoo/infer"


@pytest.fixture
async def client(
    tmp_path: Path, redis_url: str, loaded: LoadedBackbone
) -> AsyncIterator[httpx.AsyncClient]:
    settings = ServiceSettings(
        upload_dir=tmp_path,
        max_classify_body_bytes=LIMIT_BYTES,
        max_images_per_request=8,
    )
    deployment = DeploymentSettings(redis_url=redis_url, store_url=(tmp_path / "store").as_uri())
    app = build_app(settings, deployment, loaded)
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            yield client


@pytest.fixture
def zoo(tmp_path: Path, loaded: LoadedBackbone) -> None:
    """Something to ask for: of a name that does not exist no body is read."""
    publish((tmp_path / "store").as_uri(), make_artifact(loaded, 1), loaded.info.digest)


def body(tensor: dict[str, Any], data: bytes = b"", **more: Any) -> tuple[bytes, dict[str, str]]:
    header = json.dumps({"inputs": [tensor], **more}).encode()
    return header + data, {LENGTH: str(len(header))}


def tensor(name: str = "image", datatype: str = "BYTES", **fields: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": [1], **fields}


def of_size(size: object, **fields: Any) -> dict[str, Any]:
    return tensor(**fields, parameters={"binary_data_size": size})


def pixels(value: float) -> bytes:
    return np.full((1, 3, 32, 32), value, "<f4").tobytes()


PIXELS = {"name": "pixels", "datatype": "FP32", "shape": [1, 3, 32, 32]}
DEEP = b'{"inputs":' + b"[" * 5_000 + b"]" * 5_000 + b"}"

REFUSED: dict[str, tuple[bytes, dict[str, str], str]] = {
    "nothing": (b"", {}, "not JSON"),
    "nothing raw": (b"", {LENGTH: "0"}, "no image"),
    "not JSON": (b"\xff\xfe", {}, "not JSON"),
    "half a character": (
        b'{"inputs":[{"name":"image","datatype":"\\ud800","shape":[1],"data":[]}]}',
        {},
        "JSON is malformed: unexpected end of escaped utf-16 surrogate pair",
    ),
    "many objects": (b'{"inputs":[' + b"{}," * 300_000 + b"{}]}", {}, "lists and objects"),
    "many numbers": (b'{"inputs":[' + b"1," * 300_000 + b"1]}", {}, "values"),
    "many objects, compressed": (
        gzip.compress(b'{"inputs":[' + b"{}," * 300_000 + b"{}]}"),
        {"Content-Encoding": "gzip"},
        "lists and objects",
    ),
    "a list": (b"[]", {}, "not a JSON object"),
    "deep": (DEEP, {}, "not JSON"),
    "header longer than the body": (b"{}", {LENGTH: "3"}, "must be 0 to 2"),
    "negative header": (b"{}", {LENGTH: "-1"}, "must be 0 to 2"),
    "endless header": (b"{}", {LENGTH: "9" * 4000}, "must be 0 to 2"),
    "fractional header": (b"{}", {LENGTH: "1.5"}, "must be 0 to 2"),
    "no inputs": (b"{}", {}, "one input"),
    "two inputs": (json.dumps({"inputs": [tensor(), tensor()]}).encode(), {}, "one input"),
    "input is a text": (b'{"inputs": ["image"]}', {}, "not an object"),
    "unknown input": (*body(tensor("audio", data=["aaaa"])), "no input 'audio'"),
    "no shape": (*body({"name": "image", "datatype": "BYTES", "data": []}), "shape"),
    "negative shape": (*body(tensor(shape=[-1], data=[])), "shape"),
    "fractional shape": (*body(tensor(shape=[1.5], data=[])), "shape"),
    "boolean shape": (*body(tensor(shape=[True], data=[])), "shape"),
    "no rows": (*body(tensor(shape=[0], data=[])), "must be 1 to 8"),
    "a billion rows": (*body(tensor(shape=[1_000_000_000], data=[])), "must be 1 to 8"),
    "a scalar": (*body(tensor(shape=[], data=[])), "must be 1 to 8"),
    "square image": (*body(tensor(shape=[1, 1], data=["aaaa"])), "expected BYTES"),
    "image as numbers": (*body(tensor(datatype="FP32", data=[1.0])), "expected BYTES"),
    "not base64": (*body(tensor(data=["!"])), "row 0 of input 'image' is not base64"),
    "number for base64": (*body(tensor(data=[1])), "row 0 of input 'image' is not base64"),
    "more data than shape": (*body(tensor(data=["aaaa", "aaaa"])), "2 elements"),
    "no data": (*body(tensor()), "neither data nor"),
    "size past the body": (*body(of_size(10), b"abc"), "3 bytes are left"),
    "negative size": (*body(of_size(-1), b"abc"), "3 bytes are left"),
    "boolean size": (*body(of_size(True), b"abc"), "3 bytes are left"),
    "size as text": (*body(of_size("3"), b"abc"), "3 bytes are left"),
    "bytes left over": (*body(of_size(4), struct.pack("<I", 0) + b"x"), "belong to no input"),
    "element past its tensor": (*body(of_size(5), struct.pack("<I", 9) + b"x"), "longer than"),
    "four gigabytes": (*body(of_size(4), b"\xff" * 4), "longer than"),
    "no length": (*body(of_size(2), b"ab"), "ends within"),
    "more than its elements": (*body(of_size(6), struct.pack("<I", 0) + b"ab"), "bytes more"),
    "NaN": (*body({**PIXELS, "parameters": {"binary_data_size": 12288}}, pixels(np.nan)), "finite"),
    "inf": (*body({**PIXELS, "parameters": {"binary_data_size": 12288}}, pixels(np.inf)), "finite"),
    "NaN as JSON": (*body({**PIXELS, "data": [float("nan")] * 3072}), "JSON, which has no NaN"),
    "out of float32": (*body({**PIXELS, "data": [1e300] * 3072}), "finite"),
    "ragged pixels": (*body({**PIXELS, "data": [[1], [1, 2]]}), "array of numbers"),
    "texts as pixels": (*body({**PIXELS, "data": ["cat"] * 3072}), "array of numbers"),
    "huge integers": (*body({**PIXELS, "data": [10**400] * 4}), "array of numbers"),
    "few pixels": (*body({**PIXELS, "data": [1.0]}), "1 elements"),
    "few bytes": (*body({**PIXELS, "parameters": {"binary_data_size": 4}}, b"abcd"), "4 bytes"),
    "other size": (*body({**PIXELS, "shape": [1, 3, 64, 64], "data": []}), "expected FP32"),
    "unknown output": (*body(tensor(data=["aaaa"]), outputs=[{"name": "x"}]), "no output"),
    "output twice": (*body(tensor(data=["aaaa"]), outputs=[{"name": "label"}] * 2), "twice"),
    "outputs as text": (*body(tensor(data=["aaaa"]), outputs="label"), "not a list"),
    "negative classes": (
        *body(
            tensor(data=["aaaa"]),
            outputs=[{"name": "probabilities", "parameters": {"classification": -1}}],
        ),
        "not a whole number",
    ),
    "classes of labels": (
        *body(
            tensor(data=["aaaa"]), outputs=[{"name": "label", "parameters": {"classification": 1}}]
        ),
        "no classification",
    ),
    "long id": (*body(tensor(data=["aaaa"]), id="x" * 300), "256 characters"),
    "parameters as list": (*body(tensor(data=["aaaa"]), parameters=[]), "not an object"),
    "parameters as false": (*body(tensor(data=["aaaa"]), parameters=False), "not an object"),
    "an output's parameters as list": (
        *body(tensor(data=["aaaa"]), outputs=[{"name": "label", "parameters": []}]),
        "not an object",
    ),
    "not gzip": (b"{}", {"Content-Encoding": "gzip"}, "neither gzip nor deflate"),
    "gzip cut short": (gzip.compress(b"{}")[:-4], {"Content-Encoding": "gzip"}, "cut short"),
    "gzip and more": (gzip.compress(b"{}") + b"x", {"Content-Encoding": "gzip"}, "follows it"),
    "brotli": (b"{}", {"Content-Encoding": "br"}, "is not one of identity, gzip, deflate"),
}


@pytest.mark.usefixtures("zoo")
@pytest.mark.parametrize("case", REFUSED)
async def test_an_invalid_request_is_400_and_says_why(client: httpx.AsyncClient, case: str) -> None:
    content, headers, reason = REFUSED[case]
    response = await client.post(INFER, content=content, headers=headers)
    assert response.status_code == 400, response.text
    assert response.headers["content-type"] == "application/json"
    assert reason in response.json()["error"]


@pytest.mark.usefixtures("zoo")
async def test_a_decompression_bomb_is_413_and_takes_little_memory(
    client: httpx.AsyncClient,
) -> None:
    bomb = gzip.compress(bytes(200_000_000))
    assert len(bomb) < LIMIT_BYTES
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    response = await client.post(INFER, content=bomb, headers={"Content-Encoding": "gzip"})
    assert response.status_code == 413
    assert "limit is 1000000" in response.json()["error"]
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown_kib < 50_000


@pytest.mark.usefixtures("zoo")
async def test_a_body_over_the_limit_is_413(client: httpx.AsyncClient) -> None:
    response = await client.post(INFER, content=bytes(LIMIT_BYTES + 1), headers={LENGTH: "0"})
    assert response.status_code == 413
    assert set(response.json()) == {"error"}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/models/zoo", 404),
        ("GET", "/v2/models/zoo/versions/1", 404),
        ("GET", "/v2/models/zoo/versions/prod", 400),
        ("GET", "/v2/models/zoo@1/versions/1", 400),
        ("GET", "/v2/models/zoo/versions/99999999999999", 400),
        ("GET", "/v2/models/NotAName", 400),
        ("GET", f"/v2/models/sha256:{'0' * 64}", 400),
        ("GET", "/v2/nothing", 404),
        ("GET", INFER, 405),
        ("POST", "/v2/repository/models/zoo/load", 404),
        ("POST", "/v2/repository/models/zoo/unload", 404),
    ],
)
async def test_every_error_of_the_protocol_is_an_error_object(
    client: httpx.AsyncClient, method: str, path: str, status: int
) -> None:
    response = await client.request(method, path)
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert list(response.json()) == ["error"]


async def test_hostile_repository_bodies(client: httpx.AsyncClient) -> None:
    for content in (b"[]", b"{", DEEP, b'{"ready": 1}'):
        response = await client.post("/v2/repository/index", content=content)
        assert response.status_code == 400, response.text
    assert (await client.post("/v2/repository/index")).json() == []
