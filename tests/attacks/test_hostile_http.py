"""What a hostile client sends to the real application: always refused, by name, never a 5xx."""

import asyncio
import io
import json
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from backbones.info import LoadedBackbone
from jobs.settings import DeploymentSettings
from service.main import build_app
from service.settings import ServiceSettings
from tests.service.oip.conftest import make_artifact, publish

pytestmark = pytest.mark.anyio

FORM = "multipart/form-data; boundary=b"
FORM_BEGINS = b'--b\r\nContent-Disposition: form-data; name="images"; filename="x"\r\n\r\n'


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


@pytest.fixture
async def client(
    root: Path, redis_url: str, loaded: LoadedBackbone
) -> AsyncIterator[httpx.AsyncClient]:
    spool = root / "spool"
    spool.mkdir(parents=True)
    settings = ServiceSettings(
        upload_dir=spool,
        body_idle_timeout_s=0.2,
        max_classify_body_bytes=1_000_000,
        max_task_bytes=1_000_000,
        decode_threads=1,
    )
    deployment = DeploymentSettings(redis_url=redis_url, store_url=(root / "store").as_uri())
    app = build_app(settings, deployment, loaded)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=30) as client,
    ):
        yield client
    assert list(spool.iterdir()) == []


@pytest.fixture
def zoo(root: Path, loaded: LoadedBackbone) -> None:
    """Something to ask for: of a name that does not exist no body is read."""
    publish((root / "store").as_uri(), make_artifact(loaded, 1), loaded.info.digest)


def check_refused(response: httpx.Response) -> None:
    assert 400 <= response.status_code < 500, (response.status_code, response.text)
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["type"].startswith("urn:hgprompt:problem:")
    assert "Traceback" not in response.text
    assert len(response.content) < 4000


def listing(root: Path) -> list[Path]:
    return sorted(root.rglob("*"))


NASTY = [
    "..",
    "../../etc/passwd",
    "..%2f..%2fetc%2fpasswd",
    "%2e%2e%2f",
    "a%00b",
    "%ff%fe",
    "a%0d%0aSet-Cookie:x=1",
    "-",
    "A",
    "a" * 5000,
    "%F0%9F%90%88",
    "a@b@c",
    "a@0",
    "a@99999999999999999999",
    "'; DROP TABLE prompts; --",
    "${jndi:ldap://x}",
    "{{7*7}}",
]


@pytest.mark.parametrize("text", NASTY)
async def test_no_name_leaves_its_place(client: httpx.AsyncClient, root: Path, text: str) -> None:
    before = listing(root)
    for kind in ("prompts", "tasks"):
        for call in ("", "/versions", "/versions/1", "/content"):
            check_refused(await client.get(f"/v1/{kind}/{text}{call}"))
        check_refused(await client.put(f"/v1/{kind}/{text}", content=b"x"))
        check_refused(await client.delete(f"/v1/{kind}/{text}"))
    for call in ("", "/versions", "/events", "/content", "/report"):
        check_refused(await client.get(f"/v1/ensembles/{text}{call}"))
    for call in ("cancel", "classify"):
        check_refused(await client.post(f"/v1/ensembles/{text}/{call}", content=b"x"))
    check_refused(await client.delete(f"/v1/ensembles/{text}"))
    assert listing(root) == before


@pytest.mark.parametrize(
    "query",
    [
        "version=0",
        "version=-1",
        "version=1e9",
        "version=99999999999999999999999",
        "version=",
        "version=x&version=1",
        "version=%00",
    ],
)
async def test_versions_are_small_positive_numbers(client: httpx.AsyncClient, query: str) -> None:
    for path in ("prompts/p/content", "ensembles/e", "ensembles/e/events", "ensembles/e/report"):
        check_refused(await client.get(f"/v1/{path}?{query}"))


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=1001", "limit=x", "cursor=../x", "cursor=%00", "limit=1&cursor="]
)
async def test_lists_bound_their_pages(client: httpx.AsyncClient, query: str) -> None:
    for kind in ("prompts", "tasks", "ensembles"):
        check_refused(await client.get(f"/v1/{kind}?{query}"))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'"x"',
        b"{",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"name": ' * 20_000,
        b'{"name":"e","task":"t","sources":"all","seed":' + b"9" * 5000 + b"}",
        b'{"name":"e","task":"t","sources":"all","seed":NaN}',
        b'{"name":"e","task":"t","sources":"all","options":{"shrinkage":Infinity}}',
        b'{"name":"e","task":"t","sources":"all","options":{"__class__":"x"}}',
        b'{"name":"e","task":"\\u0000","sources":["\\ud800"]}',
        json.dumps({"name": "e", "task": "t", "sources": ["s"] * 2000}).encode(),
        json.dumps({"name": "e", "task": "t", "sources": ["s" * 200]}).encode(),
        b'{"name":"e","pad":"' + b"x" * 1_000_001 + b'"}',
    ],
    ids=range(16),
)
async def test_no_body_of_a_fit_request_upsets_it(client: httpx.AsyncClient, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    check_refused(await client.post("/v1/ensembles", content=body, headers=headers))
    assert (await client.get("/v1/ensembles")).json()["items"] == []


@pytest.mark.usefixtures("zoo")
@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", b"[" * 100_000),
        ("application/json", b'{"images": [' + b'"",' * 100 + b'""]}'),
        ("application/json", b'{"images": {"0": "x"}}'),
        ("application/json", b'{"images": ["aGk="], "\\ud800": 1}'),
        ("application/json", b'{"images": ["aGk="], "' + b"x" * 100_000 + b'": 1}'),
        ("application/json; charset=utf-7", b"+AHs-"),
        ("multipart/form-data", b""),
        ("multipart/form-data; boundary=", b"--\r\n"),
        ("multipart/form-data; boundary=" + "b" * 10_000, b"--b\r\n"),
        ("multipart/form-data; boundary=b", b"--b\r\n" * 10_000),
        (
            "multipart/form-data; boundary=b; charset=undefined",
            b'--b\r\nContent-Disposition: form-data; name="images"\r\n\r\nx\r\n--b--\r\n',
        ),
        (
            "multipart/form-data; boundary=b",
            b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--",
        ),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="images"\r\n\r\nx\r\n--b--\r\n',
        ),
        (
            "multipart/form-data; boundary=b",
            b"--b\r\nX: " + b"y" * 100_000 + b"\r\n\r\nx\r\n--b--\r\n",
        ),
        ("image/svg+xml", b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>"),
        ("image/png", b"\x89PNG\r\n\x1a\n" + bytes(1000)),
        ("application/x-python-pickle", b"cos\nsystem\n(S'true'\ntR."),
        ("\xff", b"x"),
        ("", b"x"),
    ],
    ids=range(19),
)
async def test_no_body_of_a_classification_upsets_it(
    client: httpx.AsyncClient, content_type: str, body: bytes
) -> None:
    headers = {"Content-Type": content_type.encode("latin-1")}
    url = "/v1/ensembles/zoo/classify"
    check_refused(await client.post(url, content=body, headers=headers))


@pytest.mark.usefixtures("zoo")
async def test_a_form_is_held_to_the_limits_of_any_body(client: httpx.AsyncClient) -> None:
    async def endless() -> AsyncIterator[bytes]:
        yield FORM_BEGINS
        while True:
            yield bytes(100_000)

    url = "/v1/ensembles/zoo/classify"
    long = await client.post(url, content=endless(), headers={"Content-Type": FORM})
    assert long.status_code == 413
    # Before a word of the form is looked at.
    headers = {"Content-Type": "multipart/form-data", "Content-Encoding": "gzip"}
    packed = await client.post(url, content=b"x", headers=headers)
    assert packed.status_code == 415


@pytest.mark.usefixtures("zoo")
@pytest.mark.parametrize("length", ["-1", "1e3", "0x10", "99999999999999999999", "1, 2", "²"])
async def test_a_false_content_length_does_not_widen_the_limit(
    client: httpx.AsyncClient, length: str
) -> None:
    async def body() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield bytes(100_000)

    headers = {"Content-Length": length.encode()}
    for method, url in (
        ("POST", "/v1/ensembles/zoo/classify"),
        ("POST", "/v1/ensembles"),
        ("PUT", "/v1/tasks/t"),
    ):
        response = await client.request(method, url, content=body(), headers=headers)
        check_refused(response)
        assert response.status_code == 413


@pytest.mark.usefixtures("zoo")
async def test_a_body_that_never_ends_is_given_up(client: httpx.AsyncClient) -> None:
    async def body(begins: bytes) -> AsyncIterator[bytes]:
        yield begins
        await asyncio.sleep(30)
        yield b"y"

    for method, url, media_type, begins in (
        ("PUT", "/v1/prompts/p", "", b"x"),
        ("PUT", "/v1/tasks/t", "", b"x"),
        ("POST", "/v1/ensembles/zoo/classify", "", b"x"),
        ("POST", "/v1/ensembles/zoo/classify", FORM, FORM_BEGINS),
    ):
        asked = client.request(
            method, url, content=body(begins), headers={"Content-Type": media_type}
        )
        response = await asyncio.wait_for(asked, 10)
        check_refused(response)
        assert response.json()["type"] == "urn:hgprompt:problem:body-timeout"


@pytest.mark.parametrize(
    "header",
    [
        ("Idempotency-Key", ""),
        ("Idempotency-Key", "k" * 100_000),
        ("Idempotency-Key", "../../x"),
        ("Idempotency-Key", "\xff\x00"),
        ("Content-Digest", "sha-256=:" + "A" * 50_000),
        ("Content-Digest", ","),
        ("Content-Encoding", "gzip"),
        ("Content-Encoding", "identity, br"),
        ("Last-Event-ID", "9" * 10_000),
        ("Range", "bytes=" + ",".join("0-1" for _ in range(10_000))),
        ("Range", "bytes=" + "9" * 10_000 + "-"),
        ("If-None-Match", '"' * 10_001),
        ("If-Match", "W/" * 10_000),
    ],
    ids=range(13),
)
async def test_no_header_upsets_it(client: httpx.AsyncClient, header: tuple[str, str]) -> None:
    headers = {header[0]: header[1].encode("latin-1")}
    wanted = {"name": "e", "task": "t", "sources": "all"}
    check_refused(await client.post("/v1/ensembles", json=wanted, headers=headers))
    check_refused(await client.put("/v1/prompts/p", content=b"x", headers=headers))
    check_refused(await client.get("/v1/prompts/p/content", headers=headers))
    check_refused(await client.get("/v1/ensembles/e/events", headers=headers))


def archive(*entries: tuple[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in entries:
            file.writestr(zipfile.ZipInfo(name), data, compress_type=zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def png(side_px: int = 4) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((side_px, side_px, 3), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        archive(("a/1.png", png()), ("../b/1.png", png())),
        archive(("a/1.png", png()), ("/b/1.png", png())),
        archive(("a/1.png", png()), ("b/1.png", b"no image")),
        archive(("a/1.png", png()), ("b/1.png", bytes(30_000_000))),
        archive(("a/1.png", png()), ("b/1.png", png(8000))),
        archive(("a/1.png", png())),
        archive(),
        b"PK\x03\x04" + bytes(100),
        b"PAR1" + bytes(100) + b"PAR1",
        b"\x1f\x8b" + bytes(100),
    ],
    ids=range(10),
)
async def test_no_archive_upsets_it_or_is_stored(
    client: httpx.AsyncClient, root: Path, data: bytes
) -> None:
    check_refused(await client.put("/v1/tasks/t", content=data))
    assert not (root / "store" / "sha256").exists()
    assert not (root / "store" / "tasks").exists()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80\x04\x95pickle",
        bytes(8),
        (1 << 62).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"{}",
        (60_000).to_bytes(8, "little") + b"[" * 60_000,
    ],
    ids=range(6),
)
async def test_no_prompt_file_upsets_it_or_is_stored(
    client: httpx.AsyncClient, root: Path, data: bytes
) -> None:
    check_refused(await client.put("/v1/prompts/p", content=data))
    assert not (root / "store" / "sha256").exists()
    assert not (root / "store" / "prompts").exists()
