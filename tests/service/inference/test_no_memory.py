"""Images for whose pixels there is no memory, as when many large ones are decoded at once."""

import base64
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from PIL import Image

from images.decoding import ImageLimits
from jobs.records import FitId
from service.inference import decoding

pytestmark = pytest.mark.anyio

URL = "/v1/ensembles/zoo/classify"
Publish = Callable[..., tuple[FitId, str]]


@pytest.fixture
def large(image: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch) -> bytes:
    """An image for which there is no memory."""
    data, decode = image(7, size=(50, 50)), decoding.decode_image

    def decoded(each: bytes, limits: ImageLimits) -> Image.Image:
        if each == data:
            raise MemoryError
        return decode(each, limits)

    monkeypatch.setattr(decoding, "decode_image", decoded)
    return data


async def test_an_image_without_memory_fails_its_own_row(
    client: httpx.AsyncClient, publish: Publish, image: Callable[..., bytes], large: bytes
) -> None:
    publish("zoo")
    good = (await client.post(URL, content=image(1))).json()["predictions"][0]
    files = [("images", ("a", each)) for each in (image(1), large, b"<svg/>", image(1))]
    answer = await client.post(URL, files=files)
    assert answer.status_code == 200, answer.text
    rows = answer.json()["predictions"]
    assert (rows[0], rows[3]) == (good, good)
    assert rows[1]["error"] == {
        "type": "urn:hgprompt:problem:no-memory",
        "title": "The service is short of memory",
        "status": 503,
        "detail": f"there is no memory to decode an image of {len(large)} bytes; "
        "it may be sent again",
    }
    assert rows[2]["error"]["status"] == 415


async def test_alone_it_is_503_and_says_when_to_try_again(
    client: httpx.AsyncClient, publish: Publish, image: Callable[..., bytes], large: bytes
) -> None:
    publish("zoo")
    refused = await client.post(URL, content=large)
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
    assert refused.json()["type"] == "urn:hgprompt:problem:no-memory"
    assert (await client.post(URL, content=image(1))).status_code == 200


async def test_the_protocol_which_has_no_errors_by_row_answers_503(
    client: httpx.AsyncClient, publish: Publish, image: Callable[..., bytes], large: bytes
) -> None:
    publish("zoo")
    data = [base64.b64encode(each).decode() for each in (image(1), large)]
    sent: dict[str, Any] = {"name": "image", "datatype": "BYTES", "shape": [2], "data": data}
    refused = await client.post("/v2/models/zoo/infer", json={"inputs": [sent]})
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
    assert "no memory" in refused.json()["error"]
