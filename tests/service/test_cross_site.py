from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send

from service.cross_site import RefuseUnknownHost

pytestmark = pytest.mark.anyio

Opener = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]

LOOPBACK = [
    "localhost",
    "LocalHost:8000",
    "localhost.",
    "hgprompt.localhost:1",
    "127.0.0.1:8000",
    "127.9.9.9",
    "[::1]",
    "[::1]:8000",
]
FOREIGN = [
    "",
    "example.org",
    "example.org:8000",
    "localhost.example.org",
    "127.0.0.1.example.org:8000",
    "notlocalhost",
    "0.0.0.0:8000",
    "10.0.0.1",
    "[2001:db8::1]:8000",
    "::1",
    "localhost@example.org",
    "localhost:example.org",
    "[localhost]",
]


async def status(client: httpx.AsyncClient, host: str) -> int:
    return (await client.get("/v1/prompts", headers={"Host": host})).status_code


async def test_on_loopback_a_name_that_points_there_is_refused(client: httpx.AsyncClient) -> None:
    assert {host: await status(client, host) for host in LOOPBACK} == dict.fromkeys(LOOPBACK, 200)
    assert {host: await status(client, host) for host in FOREIGN} == dict.fromkeys(FOREIGN, 421)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/livez"),
        ("GET", "/metrics"),
        ("GET", "/openapi.json"),
        ("DELETE", "/v1/prompts/fashion"),
        ("POST", "/v1/ensembles/zoo/classify"),
        ("GET", "/nowhere"),
    ],
)
async def test_whatever_is_asked_for_the_refusal_names_host_and_setting(
    client: httpx.AsyncClient, method: str, path: str
) -> None:
    headers = {"Host": "rebound.example:8000", "Sec-Fetch-Site": "same-origin"}
    refused = await client.request(method, path, headers=headers)
    assert refused.status_code == 421
    assert refused.headers["content-type"] == "application/problem+json"
    problem = refused.json()
    assert problem["type"] == "urn:hgprompt:problem:unknown-host"
    assert (problem["status"], problem["field"]) == (421, "Host")
    assert "'rebound.example:8000'" in problem["detail"]
    assert "HGPROMPT_ALLOWED_HOSTS" in problem["detail"]


async def test_a_refusal_is_counted_and_of_the_open_inference_protocol_where_that_is_spoken(
    client: httpx.AsyncClient,
) -> None:
    refused = await client.get("/v2/models/zoo", headers={"Host": "rebound.example"})
    assert (refused.status_code, refused.headers["content-type"]) == (421, "application/json")
    assert "rebound.example" in refused.json()["error"]
    metrics = (await client.get("/metrics")).text
    assert 'hgprompt_refused_requests_total{reason="unknown-host"} 1.0' in metrics


@pytest.mark.parametrize(
    "listening",
    [{}, {"host": "0.0.0.0", "allow_insecure_bind": True}],  # noqa: S104
)
async def test_other_hosts_can_be_allowed(
    open_client: Opener, listening: dict[str, object]
) -> None:
    allowed = "Prompts.Example.org, 10.0.0.1,[2001:DB8::1],::ffff:10.0.0.9"
    async with open_client(allowed_hosts=allowed, **listening) as client:
        for host in (
            "prompts.example.org",
            "PROMPTS.example.org.:443",
            "10.0.0.1:8000",
            "[2001:db8::1]:8000",
            "[2001:DB8:0::1]",
            "[::ffff:10.0.0.9]",
            *LOOPBACK,
        ):
            assert await status(client, host) == 200, host
        for host in ("example.org", "x.prompts.example.org", "10.0.0.2", "[2001:db8::2]"):
            assert await status(client, host) == 421, host


async def test_the_address_that_it_listens_on_is_known(open_client: Opener) -> None:
    listening = {"host": "192.0.2.5", "allow_insecure_bind": True, "allowed_hosts": "a.example"}
    async with open_client(**listening) as client:
        assert [await status(client, host) for host in ("192.0.2.5:8000", "a.example")] == [200] * 2
        assert await status(client, "192.0.2.6") == 421


async def test_beyond_loopback_any_host_is_right(open_client: Opener) -> None:
    async with open_client(host="0.0.0.0", allow_insecure_bind=True) as client:  # noqa: S104
        assert [await status(client, host) for host in FOREIGN] == [200] * len(FOREIGN)


@pytest.mark.parametrize(
    ("hosts", "expected"),
    [
        ([], 200),  # HTTP/1.0
        ([b"localhost"], 200),
        ([b"localhost", b"rebound.example"], 421),
        ([b"rebound.example", b"localhost"], 421),
        ([b"\xe9\xff"], 421),
    ],
)
async def test_a_request_may_have_no_host_but_not_an_unknown_one_among_several(
    hosts: list[bytes], expected: int
) -> None:
    async def answer(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    sent: list[Message] = []
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/v1/prompts",
        "query_string": b"",
        "headers": [(b"accept", b"*/*"), *((b"host", host) for host in hosts)],
    }
    await RefuseUnknownHost(answer, ())(scope, receive, send)
    assert sent[0]["status"] == expected


async def changed_from(client: httpx.AsyncClient, origin: str, **headers: str) -> int:
    path = "/v1/ensembles/zoo/cancel"  # as a form sends it, which asks no leave first
    answer = await client.post(path, headers={"Origin": origin, **headers})
    if answer.status_code == 403:
        problem = answer.json()
        assert (problem["field"], problem["limit"]) == ("Origin", "same-origin")
        assert repr(origin) in problem["detail"]
    return answer.status_code


async def test_without_fetch_metadata_the_origin_of_a_change_must_be_its_own(
    client: httpx.AsyncClient,
) -> None:
    local = {"Host": "localhost:8000"}
    for origin in (
        "http://evil.com",
        "http://evil.com:8000",
        "null",
        "",
        "http://localhost",  # another server of this machine
        "http://localhost:3000",
        "http://localhost:8000.evil.com",
        "http://localhost:8000@evil.com",
        "localhost:8000",
    ):
        assert await changed_from(client, origin, **local) == 403, origin
    for origin, host in (
        ("http://localhost:8000", "localhost:8000"),
        ("https://LocalHost:8000", "localhost:8000"),
        ("http://127.0.0.1:8000", "127.0.0.1:8000"),
        ("http://[::1]:8000", "[::1]:8000"),
        ("http://localhost", "localhost"),
    ):
        assert await changed_from(client, origin, Host=host) == 404, origin
    read = await client.get("/v1/prompts", headers={"Origin": "http://evil.com"})
    assert read.status_code == 200


async def test_clients_that_are_no_browsers_and_better_knowledge_need_no_origin(
    client: httpx.AsyncClient,
) -> None:
    assert (await client.post("/v1/ensembles/zoo/cancel")).status_code == 404
    behind = {"Sec-Fetch-Site": "same-origin"}  # a proxy may change `Host`
    assert await changed_from(client, "http://localhost:3000", **behind) == 404


async def test_pages_of_a_host_that_is_allowed_may_change_something(open_client: Opener) -> None:
    async with open_client(allowed_hosts="prompts.example.org") as client:
        assert await changed_from(client, "https://Prompts.example.org", Host="localhost") == 404
        assert await changed_from(client, "https://example.org", Host="localhost") == 403


async def test_beyond_loopback_the_origin_is_compared_too(open_client: Opener) -> None:
    async with open_client(host="0.0.0.0", allow_insecure_bind=True) as client:  # noqa: S104
        host = {"Host": "10.0.0.7:8000"}
        assert await changed_from(client, "http://10.0.0.7:8000", **host) == 404
        assert await changed_from(client, "http://evil.com", **host) == 403
