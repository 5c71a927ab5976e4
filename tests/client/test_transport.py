from typing import TYPE_CHECKING

import pytest

from client.api import Client
from client.errors import ClientError, ProblemError, ServiceUnreachableError
from client.transport import RetryPolicy

if TYPE_CHECKING:
    from tests.client.conftest import ScriptedServer

BACKBONE = {
    "name": "tiny",
    "backbone_digest": "sha256:00",
    "embed_dim": 192,
    "depth": 2,
    "num_prefix_tokens": 1,
    "image_size_px": 32,
    "patch_size_px": 16,
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "interpolation": "bicubic",
    "dtype": "float32",
}


def test_a_lost_connection_is_tried_again_with_growing_pauses(
    api: Client, server: "ScriptedServer", pauses: list[float]
) -> None:
    server.will_hang_up()
    server.will_hang_up()
    server.will_answer(BACKBONE)
    assert api.backbone().embed_dim == 192
    assert pauses == [0.5, 1.0]


def test_it_gives_up_with_the_url_and_the_reason(
    api: Client, server: "ScriptedServer", pauses: list[float]
) -> None:
    for _ in range(3):
        server.will_hang_up()
    with pytest.raises(ServiceUnreachableError, match=rf"no answer from {server.url} \(.+\)"):
        api.backbone()
    assert len(pauses) == 2


def test_retry_after_is_obeyed(api: Client, server: "ScriptedServer", pauses: list[float]) -> None:
    server.will_answer({}, 503, Retry_After="3")
    server.will_answer({}, 429, Retry_After="60")
    server.will_answer(BACKBONE)
    api.backbone()
    assert pauses == [3.0, RetryPolicy().max_delay_s]


def test_a_pause_is_no_shorter_for_a_retry_after_of_nothing_or_of_a_date(
    api: Client, server: "ScriptedServer", pauses: list[float]
) -> None:
    server.will_answer({}, 503, Retry_After="0")
    server.will_answer({}, 503, Retry_After="Wed, 21 Oct 2026 07:28:00 GMT")
    server.will_answer(BACKBONE)
    api.backbone()
    assert pauses == [0.5, 1.0]


def test_a_problem_carries_its_fields(api: Client, server: "ScriptedServer") -> None:
    document = {"type": "urn:hgprompt:problem:no", "title": "No", "detail": "x=1", "status": 404}
    server.will_answer(document, 404, Content_Type="application/problem+json")
    with pytest.raises(ProblemError, match=r"^No: x=1$") as caught:
        api.backbone()
    assert caught.value.type == "urn:hgprompt:problem:no"
    assert caught.value.status == 404


def test_an_error_that_is_no_problem_document_is_shown_in_one_line(
    api: Client, server: "ScriptedServer"
) -> None:
    server.will_answer("<h1>Bad\n\nGateway</h1>", 502)
    with pytest.raises(ProblemError, match=r"^Bad Gateway: <h1>Bad Gateway</h1>$"):
        api.backbone()


def test_of_a_long_page_the_start_is_shown(api: Client, server: "ScriptedServer") -> None:
    server.will_answer("<p>" * 10_000, 502)
    with pytest.raises(ProblemError, match=r"^Bad Gateway: <p><p>") as caught:
        api.backbone()
    assert len(str(caught.value)) < 400


def test_repeating_stops_with_the_last_refusal(api: Client, server: "ScriptedServer") -> None:
    for _ in range(3):
        server.will_answer({"type": "t", "title": "Full"}, 429)
    with pytest.raises(ProblemError, match=r"Full \(HTTP 429\)"):
        api.backbone()


def test_the_answer_to_an_earlier_try_is_waited_for(
    api: Client, server: "ScriptedServer", pauses: list[float]
) -> None:
    """Its connection broke after the service had begun; the key is free again after a minute."""
    twin = {"type": "urn:hgprompt:problem:idempotency-in-progress", "title": "Not answered yet"}
    server.will_hang_up()
    for _ in range(14):
        server.will_answer(twin, 409, Retry_After="60")
    server.will_answer({"name": "mix", "version": 3, "status": "queued"}, 202)
    api.create_ensemble("mix", task="t", sources=["a"])
    assert sum(pauses) > 60
    assert len({request.headers["idempotency-key"] for request in server.received}) == 1


def test_a_twin_that_never_ends_is_told(
    api: Client, server: "ScriptedServer", pauses: list[float]
) -> None:
    twin = {"type": "urn:hgprompt:problem:idempotency-in-progress", "title": "Not answered yet"}
    for _ in range(40):
        server.will_answer(twin, 409, Retry_After="60")
    with pytest.raises(ProblemError, match="Not answered yet"):
        api.create_ensemble("mix", task="t", sources=["a"])
    assert sum(pauses) < 120


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ALL_PROXY", "socks5://127.0.0.1:1"),
        ("HTTPS_PROXY", "ftp://127.0.0.1:1"),
        ("NO_PROXY", "::1/128"),
        ("SSL_CERT_FILE", "/nowhere"),
    ],
)
def test_an_environment_that_cannot_be_used_is_told(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ClientError, match="environment"):
        Client("https://example.org")


@pytest.mark.parametrize("name", ["", "caf\udce9"])
def test_what_cannot_be_a_name_is_told(api: Client, name: str) -> None:
    with pytest.raises(ClientError, match="cannot be a name"):
        api.task(name)


def test_text_that_is_not_unicode_is_told(api: Client) -> None:
    with pytest.raises(ClientError, match="not UTF-8"):
        api.create_ensemble("mix", task="caf\udce9", sources=["a"])


@pytest.mark.parametrize("call", ["cancel", "delete_prompt", "delete_task", "delete_ensemble"])
def test_cancelling_and_deleting_are_not_repeated(
    api: Client, server: "ScriptedServer", pauses: list[float], call: str
) -> None:
    server.will_hang_up()
    with pytest.raises(ServiceUnreachableError):
        getattr(api, call)("pets")
    assert pauses == []


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://host", "http://", "http://host:port", ""])
def test_what_is_no_http_url_is_refused(url: str) -> None:
    with pytest.raises(ClientError, match="is not a URL"):
        Client(url)


def test_a_proxy_in_the_environment_does_not_hide_the_loopback(
    server: "ScriptedServer", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://192.0.2.1:9")
    server.will_answer(BACKBONE)
    with Client(server.url, timeout_s=5.0) as client:
        assert client.backbone().name == "tiny"
