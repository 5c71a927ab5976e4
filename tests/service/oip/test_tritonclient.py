"""Triton's own client, unchanged, against a real process."""

import asyncio
import base64
import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tritonclient.utils import InferenceServerException

from backbones.info import LoadedBackbone
from images.decoding import ImageLimits, decode_image
from images.preprocessing import preprocess

Images = Callable[..., bytes]
Triton = triton.InferenceServerClient
Answer = Callable[..., tuple[np.ndarray, np.ndarray]]


@pytest.fixture
def client(zoo: Any) -> Iterator[Triton]:
    with triton.InferenceServerClient(zoo.address) as client:
        yield client


def image_input(images: list[bytes], *, binary: bool = True) -> triton.InferInput:
    tensor = triton.InferInput("image", [len(images)], "BYTES")
    data = images if binary else [base64.b64encode(each) for each in images]
    tensor.set_data_from_numpy(np.array(data, dtype=np.object_), binary_data=binary)
    return tensor


def uint8_pixels(loaded: LoadedBackbone, data: bytes) -> np.ndarray:
    return preprocess(decode_image(data, ImageLimits()), loaded.info.preprocessing)


def normalised(loaded: LoadedBackbone, data: bytes) -> np.ndarray:
    info = loaded.info.preprocessing
    mean = np.array(info.mean, np.float32)[:, None, None]
    std = np.array(info.std, np.float32)[:, None, None]
    return (uint8_pixels(loaded, data).astype(np.float32) / 255 - mean) / std


def test_health_and_metadata(client: Triton, zoo: Any, loaded: LoadedBackbone) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("zoo")
    assert client.is_model_ready("zoo", "1")
    assert not client.is_model_ready("zoo", "3")
    assert not client.is_model_ready("nothing")
    assert client.get_server_metadata()["name"] == "hgprompt"
    metadata = client.get_model_metadata("zoo")
    assert metadata["versions"] == ["1", "2"]
    assert metadata["inputs"][1]["shape"] == [-1, 3, 32, 32]
    assert metadata["outputs"][0]["shape"] == [-1, len(zoo.artifacts[2].classes)]
    assert metadata["outputs"][2]["shape"] == [-1, loaded.info.embed_dim]
    assert metadata["parameters"]["digest"] == zoo.digests[2]
    assert client.get_model_metadata("zoo", "1")["parameters"]["digest"] == zoo.digests[1]
    config = client.get_model_config("zoo")
    assert config["name"] == "zoo"
    assert config["output"][0]["dims"] == [-1, len(zoo.artifacts[2].classes)]


@pytest.mark.parametrize("binary_input", [True, False])
@pytest.mark.parametrize("binary_output", [True, False])
@pytest.mark.parametrize("version", ["", "1"])
def test_images(
    client: Triton,
    zoo: Any,
    loaded: LoadedBackbone,
    image: Images,
    answer: Answer,
    *,
    binary_input: bool,
    binary_output: bool,
    version: str,
) -> None:
    images = [image(seed=i) for i in range(3)]
    outputs = [
        triton.InferRequestedOutput(name, binary_data=binary_output)
        for name in ("features", "probabilities", "label")
    ]
    result = client.infer(
        "zoo",
        [image_input(images, binary=binary_input)],
        model_version=version,
        outputs=outputs,
        request_id="mine",
    )
    served = int(version or 2)
    response = result.get_response()
    assert response["id"] == "mine"
    assert response["model_version"] == str(served)
    assert response["parameters"]["digest"] == zoo.digests[served]
    for row, data in enumerate(images):
        probabilities, features = answer(zoo.artifacts[served], uint8_pixels(loaded, data))
        np.testing.assert_allclose(result.as_numpy("probabilities")[row], probabilities, atol=1e-5)
        np.testing.assert_allclose(result.as_numpy("features")[row], features, atol=1e-4)
        label = result.as_numpy("label")[row]
        text = label.decode() if isinstance(label, bytes) else label
        assert text == ("cat", "dog", "owl")[int(probabilities.argmax())]


@pytest.mark.parametrize("binary", [True, False])
def test_pixels_and_default_outputs(
    client: Triton, zoo: Any, loaded: LoadedBackbone, image: Images, answer: Answer, *, binary: bool
) -> None:
    data = [image(seed=i) for i in range(2)]
    pixels = np.stack([normalised(loaded, each) for each in data])
    tensor = triton.InferInput("pixels", list(pixels.shape), "FP32")
    tensor.set_data_from_numpy(pixels, binary_data=binary)
    result = client.infer("zoo", [tensor])
    assert result.as_numpy("features") is None
    for row, each in enumerate(data):
        expected, _ = answer(zoo.artifacts[2], uint8_pixels(loaded, each))
        np.testing.assert_allclose(result.as_numpy("probabilities")[row], expected, atol=1e-4)


def test_pixels_without_a_finite_result_name_their_row(client: Triton) -> None:
    pixels = np.zeros((2, 3, 32, 32), np.float32)
    pixels[1] = 3.4e38  # finite, and the backbone overflows
    tensor = triton.InferInput("pixels", list(pixels.shape), "FP32")
    tensor.set_data_from_numpy(pixels)
    with pytest.raises(InferenceServerException, match="row 1: the pixels hold values") as caught:
        client.infer("zoo", [tensor])
    assert caught.value.status() == "400"


def test_classification_extension(client: Triton, image: Images) -> None:
    wanted = triton.InferRequestedOutput("probabilities", class_count=2)
    result = client.infer("zoo", [image_input([image(0), image(1)])], outputs=[wanted])
    table = result.as_numpy("probabilities")
    assert table.shape == (2, 2)
    for row in table:
        scores = [float(text.decode().split(":")[0]) for text in row]
        assert scores == sorted(scores, reverse=True)
        for text in row:
            _, index, label = text.decode().split(":")
            assert label == ("cat", "dog", "owl")[int(index)]


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compression_both_ways(client: Triton, image: Images, algorithm: str) -> None:
    inputs = [image_input([image(i) for i in range(20)])]
    outputs = [triton.InferRequestedOutput("features")]
    plain = client.infer("zoo", inputs, outputs=outputs)
    packed = client.infer(
        "zoo",
        inputs,
        outputs=outputs,
        request_compression_algorithm=algorithm,
        response_compression_algorithm=algorithm,
    )
    np.testing.assert_allclose(
        plain.as_numpy("features"), packed.as_numpy("features"), rtol=1e-4, atol=1e-4
    )


def test_replies_are_compressed_when_that_is_accepted(zoo: Any, image: Images) -> None:
    images = [base64.b64encode(image(0)).decode()] * 20
    inputs = [{"name": "image", "datatype": "BYTES", "shape": [20], "data": images}]
    document = {"inputs": inputs, "outputs": [{"name": "features"}]}
    accepted = {
        "gzip": "gzip",
        "deflate": "deflate",
        "gzip;q=0, deflate;q=0.5": "deflate",
        "gzip; q=0.000": None,
    }
    for accept, encoding in accepted.items():
        response = httpx.post(
            f"{zoo.url}/v2/models/zoo/infer", json=document, headers={"Accept-Encoding": accept}
        )
        assert response.headers.get("content-encoding") == encoding
        assert response.json()["outputs"][0]["shape"][0] == 20


def test_raw_request(zoo: Any, loaded: LoadedBackbone, image: Images, answer: Answer) -> None:
    response = httpx.post(
        f"{zoo.url}/v2/models/zoo/infer",
        content=image(3),
        headers={"Inference-Header-Content-Length": "0"},
    )
    length = int(response.headers["Inference-Header-Content-Length"])
    result = triton.InferenceServerClient.parse_response_body(
        response.content, header_length=length
    )
    expected, _ = answer(zoo.artifacts[2], uint8_pixels(loaded, image(3)))
    np.testing.assert_allclose(result.as_numpy("probabilities")[0], expected, atol=1e-5)


def test_a_bad_image_fails_the_request_and_names_its_row(client: Triton, image: Images) -> None:
    with pytest.raises(InferenceServerException, match=r"row 1: .*cannot be decoded") as caught:
        client.infer("zoo", [image_input([image(0), b"junk", image(2)])])
    assert caught.value.status() == "400"


def test_statistics_count_rows_and_failures(client: Triton, image: Images) -> None:
    def stats() -> dict[str, Any]:
        return client.get_inference_statistics("zoo", "1")["model_stats"][0]

    before = stats()
    client.infer("zoo", [image_input([image(0), image(1)])], model_version="1")
    with pytest.raises(InferenceServerException):
        client.infer("zoo", [image_input([b"junk"])], model_version="1")
    after = stats()
    assert after["inference_count"] - before["inference_count"] == 2
    assert after["execution_count"] - before["execution_count"] in (1, 2)
    for key in ("success", "fail", "queue", "compute_infer"):
        grown = after["inference_stats"][key]["count"] - before["inference_stats"][key]["count"]
        assert grown == 1, key
    assert after["inference_stats"]["compute_infer"]["ns"] > 0
    everything = client.get_inference_statistics()["model_stats"]
    assert {"zoo"} == {each["name"] for each in everything}


def test_repository(client: Triton, zoo: Any, image: Images) -> None:
    index = client.get_model_repository_index()
    assert [(each["name"], each["version"], each["state"]) for each in index] == [
        ("zoo", "1", "READY"),
        ("zoo", "2", "READY"),
    ]

    def resident() -> float:
        text = httpx.get(f"{zoo.url}/metrics").text
        line = next(x for x in text.splitlines() if x.startswith("hgprompt_resident_artifacts "))
        return float(line.split()[1])

    client.load_model("zoo")
    before = resident()
    client.unload_model("zoo")
    assert resident() == before - 1
    client.infer("zoo", [image_input([image(0)])])  # loads it again by itself
    assert resident() == before
    with pytest.raises(InferenceServerException, match="takes no parameters"):
        client.load_model("zoo", config=json.dumps({"backend": "python"}))
    with pytest.raises(InferenceServerException, match="no ensemble 'nothing'"):
        client.load_model("nothing")


def test_requests_at_once_from_the_asynchronous_client(zoo: Any, image: Images) -> None:
    async def run() -> list[str]:
        async with triton_aio.InferenceServerClient(zoo.address) as client:
            assert await client.is_server_ready()
            results = await asyncio.gather(
                *(
                    client.infer("zoo", [image_input([image(i)])], model_version=str(1 + i % 2))
                    for i in range(16)
                )
            )
            return [each.get_response()["model_version"] for each in results]

    assert asyncio.run(run()) == ["1", "2"] * 8


def test_async_infer_of_the_synchronous_client(client: Triton, image: Images) -> None:
    pending = [client.async_infer("zoo", [image_input([image(i)])]) for i in range(4)]
    assert all(each.get_result().as_numpy("probabilities").shape == (1, 3) for each in pending)
