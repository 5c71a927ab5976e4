import asyncio
import base64
import hashlib
import io
import json
import threading
import time
import zipfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import BinaryIO

import httpx
import joblib
import numpy as np
import pytest
import safetensors.numpy

from backbones.info import LoadedBackbone
from jobs.ensembles import EnsembleStore
from jobs.records import FitId, FitSpec, SourceRef
from prompt_store.blobs import BlobStore
from prompt_store.errors import NotFoundError
from tests.service.conftest import Opener, damage_document

pytestmark = pytest.mark.anyio

FOREIGN = f"sha256:{'f' * 64}"


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def content_digest(data: bytes) -> str:
    return f"sha-256=:{base64.b64encode(hashlib.sha256(data).digest()).decode()}:"


def slug(response: httpx.Response) -> str:
    assert response.headers["content-type"] == "application/problem+json"
    document = response.json()
    assert document["status"] == response.status_code
    assert document["title"]
    assert document["detail"]
    return document["type"].removeprefix("urn:hgprompt:problem:")


async def test_the_backbone_is_described(client: httpx.AsyncClient, loaded: LoadedBackbone) -> None:
    found = (await client.get("/v1/backbone")).json()
    assert found["backbone_digest"] == loaded.info.digest
    assert (found["embed_dim"], found["depth"], found["num_prefix_tokens"]) == (192, 2, 1)
    assert (found["image_size_px"], found["patch_size_px"], found["dtype"]) == (32, 16, "fp32")
    assert found["mean"] == list(loaded.info.preprocessing.mean)


async def test_upload_gives_a_version_and_the_same_bytes_again_the_same_one(
    client: httpx.AsyncClient, make_prompt: Callable[..., bytes]
) -> None:
    data = make_prompt(1, team="vision", license="MIT")
    first = await client.put("/v1/prompts/fashion", content=data)
    assert first.status_code == 201
    manifest = first.json()
    assert (manifest["name"], manifest["version"]) == ("fashion", 1)
    assert manifest["digest"] == digest_of(data)
    assert (manifest["num_prompt_tokens"], manifest["prompt_depth"]) == (3, 2)
    assert (manifest["license"], manifest["labels"]) == ("MIT", {"team": "vision"})
    assert first.headers["location"] == "/v1/prompts/fashion/versions/1"
    again = await client.put("/v1/prompts/fashion", content=data)
    assert (again.status_code, again.json()) == (200, manifest)
    other = await client.put("/v1/prompts/fashion", content=make_prompt(2))
    assert (other.status_code, other.json()["version"]) == (201, 2)
    versions = (await client.get("/v1/prompts/fashion/versions")).json()
    assert [item["version"] for item in versions["items"]] == [1, 2]
    assert (await client.get("/v1/prompts/fashion")).json() == other.json()
    assert (await client.get("/v1/prompts/fashion/versions/1")).json() == manifest


async def test_lists_are_paged_and_filtered(
    client: httpx.AsyncClient, make_prompt: Callable[..., bytes]
) -> None:
    for i, name in enumerate(["delta", "alpha", "charlie", "bravo"]):
        labels = {"team": "blue"} if i % 2 else {}
        assert (
            await client.put(f"/v1/prompts/{name}", content=make_prompt(i, **labels))
        ).is_success
    first = (await client.get("/v1/prompts?limit=3")).json()
    assert [item["name"] for item in first["items"]] == ["alpha", "bravo", "charlie"]
    rest = (await client.get("/v1/prompts", params={"cursor": first["next_cursor"]})).json()
    assert ([item["name"] for item in rest["items"]], rest["next_cursor"]) == (["delta"], None)
    blue = (await client.get("/v1/prompts?label=team=blue")).json()["items"]
    assert [item["name"] for item in blue] == ["alpha", "bravo"]
    assert (await client.get(f"/v1/prompts?backbone={FOREIGN}")).json()["items"] == []
    here = (await client.get("/v1/backbone")).json()  # whose name the prompts do not mention
    for same in (here["name"], here["backbone_digest"]):
        found = (await client.get("/v1/prompts", params={"backbone": same})).json()["items"]
        assert len(found) == 4


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("label", "", "label '' does not match [^=]+"),
        ("label", "=blue", "label '=blue' does not match [^=]+"),
        ("backbone", "", "backbone '' should have at least 1 character"),
        (
            "backbone",
            "sha256:abc",
            "backbone: 'sha256:abc' is no digest, which is sha256:[0-9a-f]{64}",
        ),
        ("backbone", "sha256:", "is no digest, which is sha256:[0-9a-f]{64}"),
        ("backbone", "A" * 64, "is no digest, which is sha256:[0-9a-f]{64}"),
    ],
)
async def test_a_filter_that_nothing_can_pass_is_refused(
    client: httpx.AsyncClient, field: str, value: str, said: str
) -> None:
    refused = await client.get("/v1/prompts", params={field: value})
    problem = refused.json()
    assert (refused.status_code, problem["field"]) == (422, field)
    assert said in problem["detail"]


async def test_content_is_conditional_and_partial(
    client: httpx.AsyncClient, make_prompt: Callable[..., bytes]
) -> None:
    old, data = make_prompt(1), make_prompt(2)
    for each in (old, data):
        await client.put("/v1/prompts/fashion", content=each)
    url = "/v1/prompts/fashion/content"
    whole = await client.get(url)
    tag = whole.headers["etag"]
    assert (whole.content, tag) == (data, f'"{digest_of(data)}"')
    assert (await client.get(url, params={"version": 1})).content == old

    unchanged = await client.get(url, headers={"If-None-Match": f'"x", {tag}'})
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    assert unchanged.headers["etag"] == tag
    assert (await client.get(url, headers={"If-None-Match": '"x"'})).content == data
    assert (await client.get(url, headers={"If-Match": tag})).content == data
    assert (await client.get(url, headers={"If-None-Match": f"W/{tag}"})).status_code == 304
    assert (await client.get(url, headers={"If-Match": f"W/{tag}"})).status_code == 412
    for header in ("If-Match", "If-None-Match"):
        malformed = await client.get(url, headers={header: "x"})
        assert (malformed.status_code, malformed.json()["field"]) == (400, header)
    lost = await client.get(url, headers={"If-Match": '"x"'})
    assert (lost.status_code, slug(lost)) == (412, "precondition-failed")

    head = await client.head(url)
    assert (head.content, head.headers["content-length"]) == (b"", str(len(data)))
    assert head.headers["etag"] == tag


@pytest.mark.parametrize(
    ("header", "start", "end"),
    [
        ("bytes=0-9", 0, 10),
        ("bytes=10-", 10, None),
        ("bytes=-7", -7, None),
        ("bytes=5-999999999", 5, None),
        ("bytes=-999999999", 0, None),
    ],
)
async def test_a_range_gives_that_part(
    client: httpx.AsyncClient,
    make_prompt: Callable[..., bytes],
    header: str,
    start: int,
    end: int | None,
) -> None:
    data = make_prompt(2)
    await client.put("/v1/prompts/fashion", content=data)
    part = await client.get("/v1/prompts/fashion/content", headers={"Range": header})
    expected = data[start:end]
    assert part.content == expected
    if len(expected) < len(data):
        assert part.status_code == 206
        begin = data.index(expected)
        last = begin + len(expected) - 1
        assert part.headers["content-range"] == f"bytes {begin}-{last}/{len(data)}"


async def test_contents_are_checked_without_a_copy_and_few_at_once(
    open_client: Opener,
    make_prompt: Callable[..., bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    open_checked, lock = BlobStore.open_checked, threading.Lock()
    running = most = 0

    def counted(self: BlobStore, digest: str) -> BinaryIO:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.05)
        with lock:
            running -= 1
        return open_checked(self, digest)

    monkeypatch.setattr(BlobStore, "open_checked", counted)
    async with open_client() as client:
        data, url = make_prompt(1), "/v1/prompts/fashion/content"
        await client.put("/v1/prompts/fashion", content=data)
        (tmp_path / "spool").rmdir()  # nothing is spooled
        asked = (client.get(url, headers={"Range": "bytes=0-0"}) for _ in range(60))
        answers = await asyncio.gather(*asked)
        (tmp_path / "spool").mkdir()
    assert {answer.content for answer in answers} == {data[:1]}
    assert 1 <= most <= joblib.cpu_count()


async def test_ranges_that_cannot_be_given(
    client: httpx.AsyncClient, make_prompt: Callable[..., bytes]
) -> None:
    data = make_prompt(2)
    await client.put("/v1/prompts/fashion", content=data)
    url = "/v1/prompts/fashion/content"
    outside = await client.get(url, headers={"Range": f"bytes={len(data)}-"})
    assert (outside.status_code, slug(outside)) == (416, "range-not-satisfiable")
    assert outside.headers["content-range"] == f"bytes */{len(data)}"
    for ignored in ("bytes=0-1,5-6", "lines=1-2", "bytes=9-3", "bytes=-", "bytes=a-b"):
        assert (await client.get(url, headers={"Range": ignored})).content == data
    stale = {"Range": "bytes=0-1", "If-Range": '"sha256:old"'}
    assert (await client.get(url, headers=stale)).content == data
    fresh = {"Range": "bytes=0-1", "If-Range": f'"{digest_of(data)}"'}
    assert (await client.get(url, headers=fresh)).content == data[:2]


async def test_a_damaged_manifest_takes_no_other_prompt_out_of_the_list(
    client: httpx.AsyncClient,
    make_prompt: Callable[..., bytes],
    store_url: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for i, name in enumerate(["alpha", "bravo", "charlie"]):
        await client.put(f"/v1/prompts/{name}", content=make_prompt(i))
    damage_document(store_url, "prompts/bravo/versions/00000001.json")
    listed = await client.get("/v1/prompts")
    assert [item["name"] for item in listed.json()["items"]] == ["alpha", "charlie"]
    assert caplog.text.count("left out: the manifest of bravo@1 in prompts is damaged") == 1
    for path in ("", "/versions", "/versions/1", "/content"):
        answer = await client.get(f"/v1/prompts/bravo{path}")
        assert (answer.status_code, slug(answer)) == (500, "corrupt-document")
        assert "the manifest of bravo@1 in prompts is damaged" in answer.json()["detail"]


async def test_damaged_content_is_never_served(
    client: httpx.AsyncClient, make_prompt: Callable[..., bytes], blobs: BlobStore
) -> None:
    data = make_prompt(1)
    await client.put("/v1/prompts/fashion", content=data)
    digits = digest_of(data).removeprefix("sha256:")
    path = blobs._objects._root / "sha256" / digits[:2] / digits
    path.chmod(0o644)
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    response = await client.get("/v1/prompts/fashion/content")
    assert (response.status_code, slug(response)) == (500, "corrupt-content")


async def test_a_body_that_is_not_what_its_digest_says_is_refused(
    client: httpx.AsyncClient, make_prompt: Callable[..., bytes]
) -> None:
    data, url = make_prompt(1), "/v1/prompts/fashion"
    for header in (content_digest(b"other"), "sha-256=:AAAA:", "sha-512=:AAAA:"):
        refused = await client.put(url, content=data, headers={"Content-Digest": header})
        assert (refused.status_code, slug(refused)) == (400, "content-digest-mismatch")
    for header in ("sha-256=:%%%:", "sha-256=x", "sha-512=x", "garbage", ","):
        refused = await client.put(url, content=data, headers={"Content-Digest": header})
        assert (refused.status_code, slug(refused)) == (400, "malformed-content-digest")
        assert refused.json()["field"] == "Content-Digest"
    assert (await client.get(url)).status_code == 404
    header = f"md5=:AAAA:, {content_digest(data)}"
    kept = await client.put(url, content=data, headers={"Content-Digest": header})
    assert kept.status_code == 201


def adapter(prompt: np.ndarray, **config: object) -> bytes:
    """As PEFT saves it, zipped."""
    model = safetensors.numpy.save({"prompt_embeddings": prompt}, {"format": "pt"})
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("adapter_model.safetensors", model)
        archive.writestr("adapter_config.json", json.dumps(config))
    return buffer.getvalue()


async def test_an_adapter_of_peft_is_converted(client: httpx.AsyncClient) -> None:
    tokens = np.ones((3, 192), np.float32)
    data = adapter(tokens, peft_type="PROMPT_TUNING", num_virtual_tokens=3, token_dim=192)

    stored = await client.put("/v1/prompts/peft", content=data)
    again = await client.put("/v1/prompts/peft", content=data)

    assert (stored.status_code, again.status_code) == (201, 200)
    assert again.json() == stored.json()
    assert stored.json()["original_digest"] == digest_of(data)
    content = (await client.get("/v1/prompts/peft/content")).content
    assert stored.json()["digest"] == digest_of(content)
    found = safetensors.numpy.load(content)["prompt_embeddings"]
    np.testing.assert_array_equal(found, tokens[None])
    refused = await client.put("/v1/prompts/lora", content=adapter(tokens, peft_type="LORA"))
    assert (refused.status_code, slug(refused)) == (422, "invalid-prompt")
    assert refused.json()["field"] == "peft_type"
    assert (await client.get("/v1/prompts/lora")).status_code == 404


async def test_a_prompt_of_another_backbone_is_refused_with_both_digests(
    client: httpx.AsyncClient, make_prompt: Callable[..., bytes], loaded: LoadedBackbone
) -> None:
    foreign = make_prompt(1, backbone_digest=FOREIGN)
    response = await client.put("/v1/prompts/fashion", content=foreign)
    assert (response.status_code, slug(response)) == (422, "invalid-prompt")
    document = response.json()
    assert document["field"] == "backbone_digest"
    assert FOREIGN in document["detail"]
    assert loaded.info.digest in document["detail"]
    assert (await client.get("/v1/prompts/fashion")).status_code == 404


async def test_too_large_a_body_is_refused_declared_or_not(
    open_client: Callable[..., object],
) -> None:
    async def stream() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield bytes(100)

    async with open_client(max_prompt_bytes=1000) as client:
        for body in (bytes(1001), stream()):
            refused = await client.put("/v1/prompts/fashion", content=body)
            assert (refused.status_code, slug(refused)) == (413, "body-too-large")
            assert refused.json()["limit"] == 1000


async def test_a_compressed_body_is_refused(client: httpx.AsyncClient) -> None:
    headers = {"Content-Encoding": "gzip"}
    refused = await client.put("/v1/prompts/fashion", content=b"x", headers=headers)
    assert (refused.status_code, slug(refused)) == (415, "encoding-not-supported")


async def test_deleting_hides_a_prompt_unless_an_ensemble_depends_on_it(
    client: httpx.AsyncClient,
    make_prompt: Callable[..., bytes],
    ensembles: EnsembleStore,
    make_spec: Callable[..., object],
) -> None:
    manifest = (await client.put("/v1/prompts/fashion", content=make_prompt(1))).json()
    source = SourceRef(name="fashion", version=1, digest=manifest["digest"])
    request = ensembles.create(make_spec("animals", sources=(source,)))
    held = await client.delete("/v1/prompts/fashion")
    assert (held.status_code, slug(held)) == (409, "prompt-in-use")
    assert held.json()["ensembles"] == ["animals@1"]
    ensembles.cancel(request.fit_id)
    assert (await client.delete("/v1/prompts/fashion")).status_code == 204
    assert (await client.delete("/v1/prompts/fashion")).status_code == 404
    gone = await client.get("/v1/prompts/fashion/versions/1")
    assert (gone.status_code, slug(gone)) == (404, "not-found")
    assert (await client.put("/v1/prompts/fashion", content=make_prompt(1))).json()["version"] == 3


async def test_a_fit_that_is_asked_for_during_a_deletion_keeps_the_content_of_its_sources(
    client: httpx.AsyncClient,
    make_prompt: Callable[..., bytes],
    ensembles: EnsembleStore,
    blobs: BlobStore,
    make_spec: Callable[..., FitSpec],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As docs/operations.md has it: neither waits for the other, and nothing is lost."""
    data, url = make_prompt(1), "/v1/prompts/fashion"
    source = SourceRef(name="fashion", version=1, digest=digest_of(data))
    await client.put(url, content=data)
    dependents = EnsembleStore.dependents

    def asked_for_after(self: EnsembleStore, prompt: str) -> tuple[FitId, ...]:
        found = dependents(self, prompt)
        ensembles.create(make_spec("animals", sources=(source,)))
        return found

    with monkeypatch.context() as patch:
        patch.setattr(EnsembleStore, "dependents", asked_for_after)
        assert (await client.delete(url)).status_code == 204
    fit = (await client.get("/v1/ensembles/animals")).json()
    assert fit["status"] == "queued"
    assert blobs.get_bytes(source.digest) == data
    assert (await client.get(url)).status_code == 404
    await client.put(url, content=make_prompt(2))
    assert (await client.delete(url)).status_code == 409  # the fit counts from then on


NEW = {"If-None-Match": "*"}


@pytest.fixture(params=["prompts", "tasks"])
def uploads(
    request: pytest.FixtureRequest,
    make_prompt: Callable[..., bytes],
    make_task: Callable[..., bytes],
) -> tuple[str, bytes, bytes]:
    """The URL of a name, and two different files for it."""
    if request.param == "prompts":
        return "/v1/prompts/a", make_prompt(1), make_prompt(2)
    return "/v1/tasks/a", make_task(cat=2, dog=2), make_task(cat=3, dog=2)


async def test_an_upload_replaces_only_what_it_says(
    client: httpx.AsyncClient, uploads: tuple[str, bytes, bytes], blobs: BlobStore
) -> None:
    url, old, new = uploads
    replacing_nothing = await client.put(url, content=old, headers={"If-Match": "*"})
    assert (replacing_nothing.status_code, slug(replacing_nothing)) == (412, "precondition-failed")
    assert replacing_nothing.json()["field"] == "If-Match"
    assert "etag" not in replacing_nothing.headers
    with pytest.raises(NotFoundError):
        blobs.size_bytes(digest_of(old))
    assert (await client.put(url, content=old, headers=NEW)).status_code == 201
    tag = (await client.head(f"{url}/content")).headers["etag"]
    for headers in (NEW, {"If-Match": f'"{digest_of(new)}"'}, {"If-Match": f"W/{tag}"}):
        refused = await client.put(url, content=new, headers=headers)
        assert (refused.status_code, slug(refused)) == (412, "precondition-failed")
        assert refused.json()["field"] in headers
        assert refused.json()["detail"].endswith(f"is {digest_of(old)}; nothing was changed")
        assert refused.headers["etag"] == tag
    with pytest.raises(NotFoundError):
        blobs.size_bytes(digest_of(new))
    assert (await client.get(url)).json()["version"] == 1
    replaced = await client.put(url, content=new, headers={"If-Match": f'"x", {tag}'})
    assert (replaced.status_code, replaced.json()["version"]) == (201, 2)


async def test_a_deletion_that_expects_another_version_deletes_nothing(
    client: httpx.AsyncClient, uploads: tuple[str, bytes, bytes]
) -> None:
    url, old, new = uploads
    await client.put(url, content=old)
    tag = (await client.head(f"{url}/content")).headers["etag"]
    await client.put(url, content=new)
    for headers in ({"If-Match": tag}, NEW):
        refused = await client.delete(url, headers=headers)
        assert (refused.status_code, slug(refused)) == (412, "precondition-failed")
    assert (await client.get(url)).json()["digest"] == digest_of(new)
    tag = (await client.head(f"{url}/content")).headers["etag"]
    assert (await client.delete(url, headers={"If-Match": tag})).status_code == 204
    assert (await client.delete(url, headers={"If-Match": tag})).status_code == 404
    assert (await client.put(url, content=old, headers=NEW)).status_code == 201


@pytest.mark.parametrize("headers", [{"If-Match": "7"}, {"If-None-Match": '"x"'}, {"If-Match": ""}])
async def test_a_precondition_that_says_nothing_is_refused(
    client: httpx.AsyncClient, uploads: tuple[str, bytes, bytes], headers: dict[str, str]
) -> None:
    url, old, _ = uploads
    for refused in (
        await client.put(url, content=old, headers=headers),
        await client.delete(url, headers=headers),
    ):
        assert (refused.status_code, slug(refused)) == (400, "malformed-precondition")
        assert refused.json()["field"] in headers
    assert (await client.get(url)).status_code == 404


@pytest.mark.parametrize("name", ["Fashion", "-x", "a" * 65, "%2e%2e", "a%20b"])
async def test_a_malformed_name_is_named(client: httpx.AsyncClient, name: str) -> None:
    response = await client.get(f"/v1/prompts/{name}")
    assert (response.status_code, slug(response)) == (422, "invalid-request")
    assert response.json()["field"] == "name"
