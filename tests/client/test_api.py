import base64
import hashlib
import io
import json
import zipfile
from email import message_from_bytes
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

import pytest

from client.api import Client
from client.errors import ClientError, ProblemError, ServiceUnreachableError, UnexpectedReplyError
from client.events import MAX_FAILURES
from client.replies import Event, Prediction, RowError
from client.transport import RetryPolicy
from tests.client.conftest import TASK

if TYPE_CHECKING:
    from tests.client.conftest import ScriptedServer

PROMPT = {
    "name": "fashion",
    "version": 1,
    "digest": "sha256:aa",
    "size_bytes": 4,
    "created_at": "2026-01-02T03:04:05Z",
    "backbone": "tiny",
    "backbone_digest": "sha256:bb",
    "num_prompt_tokens": 4,
    "prompt_depth": 2,
    "embed_dim": 192,
    "dtype": "F16",
    "classes": None,
    "a_field_of_a_later_version": 1,
}
QUEUED = {"name": "mix", "version": 2, "status": "queued"}


def event(event_id: int, name: str, **progress: object) -> str:
    return f"id: {event_id}\nevent: {name}\ndata: {json.dumps(progress)}\n\n"


def test_the_folder_of_an_adapter_is_sent_as_its_two_files(
    api: Client, server: "ScriptedServer", tmp_path: Path
) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "README.md").write_text("A prompt.")
    (tmp_path / "checkpoint-1").mkdir()
    with pytest.raises(ClientError, match=r"cannot read .*adapter_model\.safetensors"):
        api.put_prompt("fashion", tmp_path)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"data")
    for _ in range(2):
        server.will_answer(PROMPT, 201)
        api.put_prompt("fashion", tmp_path)
        (tmp_path / "README.md").write_text("A better prompt.")
    one, other = server.received
    assert one.body == other.body
    with zipfile.ZipFile(io.BytesIO(one.body)) as archive:
        found = {name: archive.read(name) for name in archive.namelist()}
    assert found == {"adapter_config.json": b"{}", "adapter_model.safetensors": b"data"}


def test_a_prompt_is_sent_with_its_digest(
    api: Client, server: "ScriptedServer", tmp_path: Path
) -> None:
    (tmp_path / "p.safetensors").write_bytes(b"data")
    server.will_answer(PROMPT, 201)
    assert api.put_prompt("fashion", tmp_path / "p.safetensors").num_prompt_tokens == 4
    (sent,) = server.received
    assert (sent.method, sent.target, sent.body) == ("PUT", "/v1/prompts/fashion", b"data")
    digest = base64.b64encode(hashlib.sha256(b"data").digest()).decode()
    assert sent.headers["content-digest"] == f"sha-256=:{digest}:"


def test_a_name_cannot_leave_its_place_in_the_path(api: Client, server: "ScriptedServer") -> None:
    server.will_answer(PROMPT)
    api.prompt("a?b#c d")
    assert server.received[0].target == "/v1/prompts/a%3Fb%23c%20d"
    server.will_answer("", 204)
    api.delete_ensemble("../prompts/count")
    assert server.received[1].target == "/v1/ensembles/..%2Fprompts%2Fcount"


def test_lists_fetch_page_after_page(api: Client, server: "ScriptedServer") -> None:
    server.will_answer({"items": [PROMPT, PROMPT], "next_cursor": "x/y"})
    server.will_answer({"items": [PROMPT], "next_cursor": None})
    assert len(list(api.list_prompts(label="kind=photo"))) == 3
    targets = [request.target for request in server.received]
    assert targets == [
        "/v1/prompts?label=kind%3Dphoto",
        "/v1/prompts?label=kind%3Dphoto&cursor=x%2Fy",
    ]


def test_a_file_is_streamed_with_its_length_and_again_after_a_lost_connection(
    api: Client, server: "ScriptedServer", tmp_path: Path
) -> None:
    path = tmp_path / "pets.zip"
    path.write_bytes(bytes(range(256)) * 2048)
    server.will_hang_up()
    server.will_answer(TASK, 201)
    seen: list[tuple[int, int]] = []

    def note(sent: int, total: int) -> None:
        seen.append((sent, total))

    assert api.put_task("pets", path, note).counts == (1, 1)
    assert [request.body for request in server.received] == [path.read_bytes()] * 2
    assert server.received[1].headers["content-type"] == "application/zip"
    assert "transfer-encoding" not in server.received[1].headers
    assert seen[-1] == (524_288, 524_288)


@pytest.mark.parametrize(
    ("name", "media_type"),
    [
        ("pets.TAR", "application/x-tar"),
        ("pets.parquet", "application/vnd.apache.parquet"),
        ("pets.tgz", "application/octet-stream"),
    ],
)
def test_a_file_is_sent_as_what_its_name_says(
    api: Client, server: "ScriptedServer", tmp_path: Path, name: str, media_type: str
) -> None:
    (tmp_path / name).write_bytes(b"data")
    server.will_answer(TASK, 201)
    api.put_task("pets", tmp_path / name)
    assert server.received[0].headers["content-type"] == media_type


def test_a_task_may_take_long_to_be_checked(server: "ScriptedServer", tmp_path: Path) -> None:
    path = tmp_path / "pets.zip"
    path.write_bytes(b"PK")
    server.will_answer(TASK, 201)
    server.will_answer(PROMPT)
    server.delay_s = 0.5
    with Client(server.url, timeout_s=0.2, retry=RetryPolicy(attempts=1)) as client:
        assert client.put_task("pets", path).name == TASK["name"]
        with pytest.raises(ServiceUnreachableError):
            client.prompt("fashion")


def test_a_folder_is_sent_as_the_same_zip_every_time(
    api: Client, server: "ScriptedServer", tmp_path: Path
) -> None:
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
        (tmp_path / label / "1.png").write_bytes(label.encode())
    for _ in range(2):
        server.will_answer(TASK, 201)
        api.put_task("pets", tmp_path)
    first, second = (request.body for request in server.received)
    assert first == second
    assert first.startswith(b"PK")


@pytest.mark.parametrize("name", ["absent.zip", "absent"])
def test_a_file_that_cannot_be_read_is_named(api: Client, tmp_path: Path, name: str) -> None:
    with pytest.raises(ClientError, match=f"cannot read .*{name}: No such file"):
        api.put_task("pets", tmp_path / name)
    with pytest.raises(ClientError, match=f"cannot read .*{name}: No such file"):
        api.put_prompt("fashion", tmp_path / name)


def test_creating_again_after_a_lost_connection_uses_the_same_key(
    api: Client, server: "ScriptedServer"
) -> None:
    server.will_hang_up()
    server.will_answer(QUEUED, 202)
    server.will_answer(QUEUED, 202)
    options = {"tuning_epochs": 0}
    api.create_ensemble("mix", task="pets", sources=["a", "b@2"], options=options, seed=7)
    api.create_ensemble("mix", task="pets", sources="all")
    keys = [request.headers["idempotency-key"] for request in server.received]
    assert keys[0] == keys[1] != keys[2]
    assert json.loads(server.received[0].body) == {
        "name": "mix",
        "task": "pets",
        "sources": ["a", "b@2"],
        "method": "hgprompt",
        "options": {"tuning_epochs": 0},
        "seed": 7,
    }


def test_events_go_on_where_a_lost_connection_stopped(
    api: Client, server: "ScriptedServer", pauses: list[float]
) -> None:
    server.will_stream(event(1, "progress", status="queued"), ": ping\n\n", "id: 2\nevent: prog")
    server.will_hang_up()
    server.will_answer({}, 503)
    server.will_stream(
        event(2, "progress", status="running", stage="features", step=1, total=4),
        event(3, "outcome", status="succeeded"),
        event(4, "progress", status="queued"),
    )
    events = list(api.events("mix", 2))
    assert [(each.id, each.event) for each in events] == [
        ("1", "progress"),
        ("2", "progress"),
        ("3", "outcome"),
    ]
    assert events[1].progress.total == 4
    sent_ids = [request.headers.get("last-event-id") for request in server.received]
    assert sent_ids == [None, "1", "1", "1"]
    assert {request.target for request in server.received} == {"/v1/ensembles/mix/events?version=2"}
    assert len(pauses) == 3


def test_after_the_outcome_no_event_is_waited_for(
    api: Client, server: "ScriptedServer", pauses: list[float]
) -> None:
    server.will_answer("", 204)
    assert list(api.events("mix", 2, last_event_id="9999999999-0")) == []
    assert pauses == []


def test_events_give_up_when_nothing_comes_for_long(
    api: Client, server: "ScriptedServer", pauses: list[float]
) -> None:
    server.will_stream(event(1, "progress", status="queued"))
    for _ in range(MAX_FAILURES):
        server.will_hang_up()
    seen: list[Event] = []
    with pytest.raises(ServiceUnreachableError):
        seen.extend(api.events("mix", 2))
    assert sum(pauses) >= 40.0


def test_a_service_that_is_there_but_has_nothing_to_say_is_waited_for(
    api: Client, server: "ScriptedServer"
) -> None:
    """A fit that waits behind others, followed through a proxy that cuts streams off."""
    for _ in range(MAX_FAILURES + 1):
        server.will_stream(": ping\n\n")
    server.will_stream(event(1, "outcome", status="succeeded"))
    assert [each.event for each in api.events("mix", 2)] == ["outcome"]


def test_events_of_an_unknown_ensemble_are_a_problem(
    api: Client, server: "ScriptedServer", pauses: list[float]
) -> None:
    server.will_answer({"type": "t", "title": "No such ensemble"}, 404)
    with pytest.raises(ProblemError, match="No such ensemble"):
        list(api.events("mix", 2))
    assert pauses == []


def test_waiting_returns_the_record_of_that_version(api: Client, server: "ScriptedServer") -> None:
    server.will_stream(event(9, "outcome", status="failed"))
    error = {"type": "t", "title": "Bad", "detail": "one class only"}
    server.will_answer({"name": "mix", "version": 2, "status": "failed", "error": error})
    seen: list[Event] = []
    ended = api.wait("mix", 2, seen.append)
    assert ended.status == "failed"
    assert ended.why() == "mix@2 failed: one class only"
    assert [each.event for each in seen] == ["outcome"]
    assert server.received[1].target == "/v1/ensembles/mix?version=2"


def test_every_call_about_a_version_names_it(api: Client, server: "ScriptedServer") -> None:
    server.will_answer("<html>", 200)
    server.will_answer("data", 200)
    server.will_answer(QUEUED, 200)
    server.will_answer(QUEUED, 200)
    assert api.report("mix", 2) == b"<html>"
    assert api.content("mix", 2) == b"data"
    api.cancel("mix", 2)
    api.ensemble("mix", 2)
    assert [(request.method, request.target) for request in server.received] == [
        ("GET", "/v1/ensembles/mix/report?version=2"),
        ("GET", "/v1/ensembles/mix/content?version=2"),
        ("POST", "/v1/ensembles/mix/cancel?version=2"),
        ("GET", "/v1/ensembles/mix?version=2"),
    ]


@pytest.mark.parametrize("images", [[b"one"], [b"one", b"two"]])
def test_the_key_of_an_assignment_goes_with_the_images(
    api: Client, server: "ScriptedServer", images: list[bytes]
) -> None:
    reference = {"name": "mix", "version": 2, "digest": "sha256:dd"}
    for _ in range(2):
        server.will_answer({"ensemble": reference, "predictions": []})
    api.classify("mix@prod", images, top_k=3, assignment_key="user-7")
    api.classify("mix@prod", images)
    keys = [request.headers.get("hgprompt-assignment-key") for request in server.received]
    assert keys == ["user-7", None]
    assert server.received[0].target.endswith("/classify?top_k=3")


def test_a_client_that_is_left_is_closed(server: "ScriptedServer") -> None:
    with Client(server.url) as client:
        pass
    with pytest.raises(RuntimeError, match="closed"):
        client.backbone()


def test_one_image_is_the_body_itself(api: Client, server: "ScriptedServer") -> None:
    best = {"label": "cat", "index": 0, "probability": 0.9}
    reference = {"name": "mix", "version": 2, "digest": "sha256:dd"}
    server.will_answer({"ensemble": reference, "predictions": [[best]], "timing_ms": {"queue": 1}})
    reply = api.classify("mix@2", [b"JPEG"], top_k=1)
    assert reply.ensemble.version == 2
    assert reply.predictions == ((Prediction(label="cat", index=0, probability=0.9),),)
    (sent,) = server.received
    assert unquote(sent.target) == "/v1/ensembles/mix@2/classify?top_k=1"
    assert sent.body == b"JPEG"


def test_several_images_are_parts_and_a_bad_one_fails_only_its_row(
    api: Client, server: "ScriptedServer"
) -> None:
    best = {"label": "cat", "index": 0, "probability": 0.9}
    problem = {"type": "t", "title": "Not an image", "detail": "row 1", "status": 415}
    reference = {"name": "mix", "version": 2, "digest": "sha256:dd"}
    server.will_answer({"ensemble": reference, "predictions": [[best], {"error": problem}]})
    first, second = api.classify("mix", [b"one", b"two"]).predictions
    assert not isinstance(first, RowError)
    assert isinstance(second, RowError)
    assert second.error.detail == "row 1"
    (sent,) = server.received
    head = f"Content-Type: {sent.headers['content-type']}\r\n\r\n".encode()
    parts = message_from_bytes(head + sent.body).get_payload()
    assert isinstance(parts, list)
    assert [part.get_payload() for part in parts] == ["one", "two"]  # pyright: ignore[reportAttributeAccessIssue]


def test_a_reply_of_another_shape_names_the_field(api: Client, server: "ScriptedServer") -> None:
    server.will_answer({**QUEUED, "status": "pondering"})
    with pytest.raises(
        UnexpectedReplyError, match=r"GET /v1/ensembles/mix gave no valid Ensemble: status: "
    ):
        api.ensemble("mix")


def test_readiness_tells_what_is_missing(api: Client, server: "ScriptedServer") -> None:
    server.will_hang_up()
    server.will_answer({"type": "t", "title": "Not ready", "detail": "redis: gone"}, 503)
    server.will_answer({"status": "ready"})
    found = [api.readiness() for _ in range(3)]
    assert [each.ready for each in found] == [False, False, True]
    assert [each.reason for each in found] == [None, "redis: gone", None]
