"""Odd and hostile images over HTTP, in every form of body: an answer or the documented refusal."""

import base64
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from images.decoding import ImageLimits, decode_image
from tests.attacks.image_files import FORMATS, answered, encode, photo, refused
from tests.service.conftest import (  # noqa: F401 - fixtures
    Opener,
    deployment,
    image,
    make_artifact,
    make_spec,
    open_client,
    publish,
)

# ruff: noqa: F811 - the names of fixtures

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore"),  # Pillow warns of what it finds odd
]

PATH = "/v1/ensembles/zoo/classify"
MAX_IMAGE_BYTES = 2_000_000
FLIPPED = 500


PEAK = """
import resource, sys
from pathlib import Path
from images.decoding import ImageLimits, decode_image
from images.errors import ImageDecodeError
def peak_kib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before_kib = peak_kib()
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        decode_image(path.read_bytes(), ImageLimits())
    except ImageDecodeError:
        pass
    print(path.name, 1024 * (peak_kib() - before_kib))
"""
"""Decodes the files of a folder and says after each how much memory has been taken at most."""


@pytest.fixture
async def client(
    open_client: Opener, publish: Callable[..., object]
) -> AsyncIterator[httpx.AsyncClient]:
    publish("zoo", seed=1)
    async with open_client(max_image_bytes=MAX_IMAGE_BYTES) as client:
        yield client


async def raw(client: httpx.AsyncClient, data: bytes) -> httpx.Response:
    return await client.post(PATH, content=data, headers={"Content-Type": "image/png"})


async def multipart(client: httpx.AsyncClient, data: bytes) -> httpx.Response:
    return await client.post(PATH, files=[("images", ("x.png", data))])


async def in_json(client: httpx.AsyncClient, data: bytes) -> httpx.Response:
    return await client.post(PATH, json={"images": [base64.b64encode(data).decode()]})


FORMS = (raw, multipart, in_json)


async def test_odd_images_are_answered_alike_in_every_form(client: httpx.AsyncClient) -> None:
    for name, data in answered().items():
        answers = [await form(client, data) for form in FORMS]
        assert [answer.status_code for answer in answers] == [200] * 3, (name, answers[0].text)
        bodies = [answer.json()["predictions"] for answer in answers]
        assert bodies[0] == bodies[1] == bodies[2], name


async def test_hostile_images_are_refused_in_every_form(client: httpx.AsyncClient) -> None:
    for name, (status, data) in refused().items():
        for form in FORMS:
            answer = await form(client, data)
            assert answer.status_code == status, (name, form.__name__, answer.text)
            assert answer.headers["content-type"] == "application/problem+json"
            assert len(answer.content) < 2000


async def test_orientations_are_the_images_turned(client: httpx.AsyncClient) -> None:
    limits = ImageLimits()
    for n in range(1, 9):
        data = answered()[f"exif-{n}"]
        upright = encode(decode_image(data, limits), "PNG")
        turned, plain = await raw(client, data), await raw(client, upright)
        assert turned.json()["predictions"] == plain.json()["predictions"], n


async def test_hostile_images_among_good_ones_fail_alone(client: httpx.AsyncClient) -> None:
    good = encode(photo(), "PNG")
    alone = (await raw(client, good)).json()["predictions"][0]
    hostile = {name: each for name, each in refused().items() if name != "too-many-bytes"}
    for name, (status, data) in hostile.items():
        files = [("images", ("x", each)) for each in (good, data, good)]
        rows = (await client.post(PATH, files=files)).json()["predictions"]
        assert rows[0] == rows[2] == alone, name
        assert rows[1]["error"]["status"] == status, name


async def test_flipped_bytes_are_answered_or_refused(client: httpx.AsyncClient) -> None:
    originals = [encode(photo(), each) for each in FORMATS]
    for seed in range(FLIPPED):
        rng = np.random.default_rng(seed)
        data = np.frombuffer(originals[seed % len(originals)], np.uint8).copy()
        # Half of the time in the header, where it matters most.
        end = len(data) if seed % 2 else min(len(data), 200)
        places = rng.integers(0, end, rng.integers(1, 9))
        data[places] = rng.integers(0, 256, len(places))
        answer = await raw(client, data.tobytes())
        assert answer.status_code in (200, 413, 415), (seed, answer.text)


def test_no_file_takes_much_memory(tmp_path: Path) -> None:
    files = answered() | {name: data for name, (_, data) in refused().items()}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PEAK, str(tmp_path)],
        capture_output=True,
        check=False,
        timeout=120,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    peaks = dict(line.split() for line in done.stdout.splitlines())
    assert peaks.keys() == files.keys(), done.stderr
    assert max(map(int, peaks.values())) < 100_000_000, peaks


async def test_a_size_in_the_bitstream_alone_is_why_avif_is_refused(
    client: httpx.AsyncClient,
) -> None:
    """AVIF's header and its bitstream each have a size; Pillow's decoder trusts the latter."""
    data = bytearray(encode(Image.new("RGB", (512, 512)), "AVIF"))
    at = data.index(b"ispe") + 8
    data[at : at + 8] = (8).to_bytes(4, "big") * 2
    answer = await raw(client, bytes(data))
    assert answer.status_code == 415
    assert "not one of JPEG" in answer.json()["detail"]
