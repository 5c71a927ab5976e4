import json
from typing import TYPE_CHECKING

import pytest

from client.api import Client
from client.errors import AliasMovedError, ProblemError, ServiceUnreachableError
from tests.client.conftest import Run

if TYPE_CHECKING:
    from tests.client.conftest import ScriptedServer

ALIAS = {
    "name": "zoo",
    "alias": "prod",
    "version": 3,
    "versions": [{"version": 3, "weight": 1.0}],
    "move": 7,
    "moved_at": "2026-01-02T03:04:05Z",
}
SPLIT = {
    **ALIAS,
    "version": None,
    "versions": [{"version": 2, "weight": 0.9}, {"version": 3, "weight": 0.1}],
    "move": 8,
}
DELETED = {**ALIAS, "version": None, "versions": [], "move": 9}
LOST = {"type": "t", "title": "The alias is not as expected", "detail": "is at move 8"}


@pytest.mark.parametrize(
    ("if_match", "header"),
    [(None, ("if-none-match", "*")), (7, ("if-match", '"7"')), ("*", ("if-match", "*"))],
)
def test_a_change_says_what_it_replaces(
    api: Client, server: "ScriptedServer", if_match: object, header: tuple[str, str]
) -> None:
    server.will_answer(SPLIT, 200)
    moved = api.ensemble_aliases.set("zoo", "prod", {2: 0.9, 3: 0.1}, if_match=if_match)
    assert (moved.version, moved.move, len(moved.versions)) == (None, 8, 2)
    (sent,) = server.received
    assert (sent.method, sent.target) == ("PUT", "/v1/ensembles/zoo/aliases/prod")
    assert json.loads(sent.body) == {"versions": SPLIT["versions"]}
    conditions = [(k, v) for k, v in sent.headers.items() if k.startswith("if-")]
    assert conditions == [header]


def test_prompts_have_aliases_of_their_own(api: Client, server: "ScriptedServer") -> None:
    for _ in range(2):
        server.will_answer(ALIAS)
    server.will_answer("", 204)
    api.prompt_aliases.set("count", "prod", 3)
    api.prompt_aliases.get("count", "prod")
    api.prompt_aliases.delete("count", "prod", if_match=7)
    lines = [f"{request.method} {request.target}" for request in server.received]
    assert lines == [f"{m} /v1/prompts/count/aliases/prod" for m in ("PUT", "GET", "DELETE")]
    assert json.loads(server.received[0].body) == {"version": 3}
    assert server.received[2].headers["if-match"] == '"7"'


def test_a_lost_swap_has_an_error_of_its_own(api: Client, server: "ScriptedServer") -> None:
    for _ in range(2):
        server.will_answer(LOST, 412)
    with pytest.raises(AliasMovedError, match="is at move 8"):
        api.ensemble_aliases.set("zoo", "prod", 3, if_match=7)
    with pytest.raises(AliasMovedError):
        api.ensemble_aliases.delete("zoo", "prod", if_match=7)
    server.will_answer(LOST, 409)
    with pytest.raises(ProblemError) as other:
        api.ensemble_aliases.set("zoo", "prod", 3, if_match=7)
    assert not isinstance(other.value, AliasMovedError)


def test_a_change_is_sent_once(api: Client, server: "ScriptedServer", pauses: list[float]) -> None:
    server.will_hang_up()  # it may have been made: a repetition would be a lost swap
    with pytest.raises(ServiceUnreachableError):
        api.ensemble_aliases.set("zoo", "prod", 3, if_match=7)
    assert (len(server.received), pauses) == (1, [])


def test_lists_and_histories_fetch_page_after_page(api: Client, server: "ScriptedServer") -> None:
    server.will_answer({"items": [SPLIT], "next_cursor": "8"})
    server.will_answer({"items": [ALIAS], "next_cursor": None})
    assert [each.move for each in api.ensemble_aliases.history("zoo", "prod")] == [8, 7]
    server.will_answer({"items": [ALIAS], "next_cursor": None})
    assert [each.alias for each in api.ensemble_aliases.list("zoo")] == ["prod"]
    assert [request.target for request in server.received] == [
        "/v1/ensembles/zoo/aliases/prod/history",
        "/v1/ensembles/zoo/aliases/prod/history?cursor=8",
        "/v1/ensembles/zoo/aliases",
    ]


@pytest.mark.parametrize("images", [[b"one"], [b"one", b"two"]])
def test_an_assignment_key_is_sent_along(
    api: Client, server: "ScriptedServer", images: list[bytes]
) -> None:
    reference = {"name": "zoo", "version": 2, "digest": "sha256:dd"}
    for _ in range(2):
        server.will_answer({"ensemble": reference, "predictions": [[]] * len(images)})
    api.classify("zoo@prod", images, assignment_key="user 7")
    api.classify("zoo@prod", images)
    keys = [request.headers.get("hgprompt-assignment-key") for request in server.received]
    assert keys == ["user 7", None]
    assert server.received[0].target == "/v1/ensembles/zoo%40prod/classify?top_k=5"


def test_ls_shows_where_each_points(run: Run, server: "ScriptedServer") -> None:
    canary = {**SPLIT, "alias": "canary"}
    server.will_answer({"items": [canary, ALIAS], "next_cursor": None})
    status, out, _ = run("aliases", "ls", "zoo")
    assert status == 0
    assert [line.split() for line in out.splitlines()] == [
        ["alias", "versions", "move", "moved"],
        ["canary", "2=0.9", "3=0.1", "8", "2026-01-02", "03:04:05"],
        ["prod", "3", "7", "2026-01-02", "03:04:05"],
    ]


def test_history_shows_the_latest_moves(run: Run, server: "ScriptedServer") -> None:
    server.will_answer({"items": [DELETED, SPLIT, ALIAS], "next_cursor": "7"})
    status, out, _ = run("aliases", "history", "zoo", "prod", "--limit", "2")
    assert status == 0
    assert [line.split()[:2] for line in out.splitlines()[1:]] == [
        ["9", "(deleted)"],
        ["8", "2=0.9"],
    ]


@pytest.mark.parametrize(
    ("args", "body", "condition"),
    [
        (["3"], {"version": 3}, ("if-none-match", "*")),
        (["3", "--if-match", "7"], {"version": 3}, ("if-match", '"7"')),
        (["3", "--if-match", '"7"'], {"version": 3}, ("if-match", '"7"')),
        (["3", "--if-match", "*"], {"version": 3}, ("if-match", "*")),
        (
            ["2=0.9", "3=0.1", "--if-match", "7"],
            {"versions": SPLIT["versions"]},
            ("if-match", '"7"'),
        ),
    ],
)
def test_set_creates_or_moves(
    run: Run,
    server: "ScriptedServer",
    args: list[str],
    body: object,
    condition: tuple[str, str],
) -> None:
    server.will_answer(ALIAS)
    assert run("aliases", "set", "zoo", "prod", *args) == (0, "zoo@prod  3  move 7\n", "")
    (sent,) = server.received
    assert json.loads(sent.body) == body
    assert sent.headers[condition[0]] == condition[1]


def test_a_lost_swap_is_one_line_and_status_1(run: Run, server: "ScriptedServer") -> None:
    server.will_answer(LOST, 412)
    status, out, err = run("aliases", "set", "zoo", "prod", "3", "--if-match", "7")
    assert (status, out) == (1, "")
    assert err == "hgprompt: The alias is not as expected: is at move 8\n"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["three"], "'three' is not a version or VERSION=WEIGHT"),
        (["2=0.5", "3"], "'3' is not VERSION=WEIGHT"),
        (["2=0.5", "2=0.5"], "version 2 is named twice"),
        (["2=nan"], "'2=nan' is not VERSION=WEIGHT"),
        (["2=half"], "'2=half' is not VERSION=WEIGHT"),
        (["3", "--if-match", "x"], "--if-match 'x' is neither the number of a move nor *"),
        ([], "VERSION"),
    ],
)
def test_bad_arguments_are_usage_errors(run: Run, args: list[str], message: str) -> None:
    status, _, err = run("aliases", "set", "zoo", "prod", *args)
    assert status == 2
    assert message in " ".join(err.split())


def test_rm_needs_to_be_told_what_it_deletes(run: Run, server: "ScriptedServer") -> None:
    assert run("aliases", "rm", "zoo", "prod")[0] == 2
    server.will_answer("", 204)
    assert run("aliases", "rm", "count", "prod", "--if-match", "7", "--prompt")[:2] == (
        0,
        "count@prod deleted\n",
    )
    (sent,) = server.received
    assert (sent.method, sent.target) == ("DELETE", "/v1/prompts/count/aliases/prod")
