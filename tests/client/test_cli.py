import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import pytest

from ensemble.options import Method
from tests.client.conftest import TASK, Ran, Run

if TYPE_CHECKING:
    from tests.client.conftest import ScriptedServer

PROMPT = {
    "name": "fashion",
    "version": 3,
    "digest": "sha256:0123456789abcdef",
    "size_bytes": 30_720,
    "created_at": "2026-01-02T03:04:05Z",
    "backbone": "tiny",
    "backbone_digest": "sha256:bb",
    "num_prompt_tokens": 10,
    "prompt_depth": 11,
    "embed_dim": 384,
    "dtype": "F16",
    "classes": ["a", "b"],
}
QUEUED = {"name": "mix", "version": 2, "status": "queued"}
RESULT = {
    "weights": {"fashion": 0.75, "count": 0.25},
    "leaderboard": [
        {"method": "hgprompt", "accuracy": 0.8, "ci95": [0.7, 0.9]},
        {"method": "none", "accuracy": 0.7, "ci95": [0.6, 0.8]},
    ],
    "chosen": "hgprompt",
    "advice": "Nothing simpler is as good.",
}


def outcome(status: str) -> str:
    return f'id: 5\nevent: outcome\ndata: {{"status": "{status}"}}\n\n'


def test_prompts_are_named_after_their_files(
    run: Run, server: "ScriptedServer", tmp_path: Path
) -> None:
    files = [tmp_path / "fashion.safetensors", tmp_path / "count.safetensors"]
    for file in files:
        file.write_bytes(b"data")
        server.will_answer(PROMPT, 201)
    ran = run("prompts", "push", *files)
    assert ran.status == 0
    assert ran.out.splitlines()[0] == "fashion@3  0123456789ab  10 tokens, depth 11"
    assert [r.target for r in server.received] == ["/v1/prompts/fashion", "/v1/prompts/count"]


def test_one_name_for_two_files_is_a_usage_error(run: Run) -> None:
    ran = run("prompts", "push", "a.safetensors", "b.safetensors", "--name", "x")
    assert ran.status == 2
    assert "--name fits one file, not 2" in ran.err


def test_lists_are_tables_with_whole_names(run: Run, server: "ScriptedServer") -> None:
    name = "a-name-of-sixty-four-characters".ljust(64, "x")
    server.will_answer({"items": [{**PROMPT, "name": name}], "next_cursor": None})
    ran = run("prompts", "ls")
    head, row = ran.out.splitlines()
    assert head.split() == [
        *("name", "version", "tokens", "depth", "size", "classes", "digest", "created")
    ]
    expected = [name, "3", "10", "11", "30.7", "kB", "2", "0123456789ab", "2026-01-02"]
    assert row.split() == expected


@pytest.mark.parametrize("noun", ["prompts", "tasks", "ensembles"])
def test_a_name_is_deleted_once_and_never_twice(
    run: Run, server: "ScriptedServer", noun: str
) -> None:
    server.will_answer("", 204)
    assert run(noun, "rm", "mix") == Ran(0, "mix deleted\n", "")
    problem = {"type": "urn:x", "title": "In use", "detail": "mix@2 is running", "status": 409}
    server.will_answer(problem, 409, Content_Type="application/problem+json")
    assert run(noun, "rm", "mix") == Ran(1, "", "hgprompt: In use: mix@2 is running\n")
    server.will_hang_up()
    assert run(noun, "rm", "mix").status == 1
    assert [(r.method, r.target) for r in server.received] == 3 * [("DELETE", f"/v1/{noun}/mix")]


@pytest.mark.parametrize("noun", ["prompts", "tasks", "ensembles"])
def test_an_empty_list_says_so(run: Run, server: "ScriptedServer", noun: str) -> None:
    server.will_answer({"items": [], "next_cursor": None})
    assert run(noun, "ls").out.startswith(f"no {noun} yet")


def test_a_task_is_pushed(run: Run, server: "ScriptedServer", tmp_path: Path) -> None:
    (tmp_path / "pets.tar.gz").write_bytes(b"data")
    server.will_answer(TASK, 201)
    ran = run("tasks", "push", tmp_path / "pets.tar.gz")
    assert ran.out == "pets@1  cc  2 images, 2 classes\n"
    assert server.received[0].target == "/v1/tasks/pets"


def test_a_task_behind_a_link_has_the_name_of_the_link(
    run: Run, server: "ScriptedServer", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "2026-11" / "cat").mkdir(parents=True)
    (tmp_path / "2026-11" / "cat" / "a.png").write_bytes(b"x")
    (tmp_path / "pets").symlink_to(tmp_path / "2026-11")
    monkeypatch.chdir(tmp_path / "pets")
    for path, name in ((tmp_path / "pets", "pets"), (Path(), "2026-11")):
        server.will_answer(TASK, 201)
        assert run("tasks", "push", path).status == 0
        assert server.received[-1].target == f"/v1/tasks/{name}"


def test_what_a_fit_leaves_out_is_told(run: Run, server: "ScriptedServer") -> None:
    left_out = [{"name": "odd", "version": 1, "digest": "sha256:0", "reason": "it has 20 tokens"}]
    server.will_answer({**QUEUED, "left_out": left_out}, 202)
    ran = run("fit", "mix", "--task", "pets", "--no-wait")
    assert "without odd: it has 20 tokens\n" in ran.out


def test_the_help_of_fit_names_every_method(run: Run) -> None:
    words = run("fit", "--help").out.replace(",", " ").replace(".", " ").split()
    assert set(get_args(Method)) <= set(words)


def test_fit_sends_what_was_asked_for_and_shows_the_result(
    run: Run, server: "ScriptedServer"
) -> None:
    server.will_answer(QUEUED, 202)
    server.will_stream(outcome("succeeded"))
    server.will_answer({**QUEUED, "status": "succeeded", "result": RESULT})
    options = ("--option", "tuning_epochs=5", "--option", "align=false", "--option", "x=y")
    ran = run("fit", "mix", "--task", "pets", "--sources", "fashion, count@2", *options)
    assert ran.status == 0
    sent = json.loads(server.received[0].body)
    assert sent["sources"] == ["fashion", "count@2"]
    assert sent["options"] == {"tuning_epochs": 5, "align": False, "x": "y"}
    assert "mix@2 queued" in ran.out
    assert "Chosen: HGPrompt ensemble" in ran.out


def test_fit_without_waiting_only_asks(run: Run, server: "ScriptedServer") -> None:
    server.will_answer(QUEUED, 202)
    ran = run("fit", "mix", "--task", "pets", "--no-wait")
    assert (ran.status, ran.out) == (0, "mix@2 queued\n")
    assert json.loads(server.received[0].body)["sources"] == "all"


def test_a_fit_that_fails_is_one_line_and_status_1(run: Run, server: "ScriptedServer") -> None:
    server.will_answer(QUEUED, 202)
    server.will_stream(outcome("failed"))
    error = {"type": "t", "title": "Bad", "detail": "only one\nclass"}
    server.will_answer({**QUEUED, "status": "failed", "error": error})
    ran = run("fit", "mix", "--task", "pets")
    assert (ran.status, ran.err) == (1, "hgprompt: mix@2 failed: only one class\n")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--option", "align=true", "--option", "align=false"), "--option 'align' is given twice"),
        (("--option", "epochs"), "--option 'epochs' is not KEY=VALUE"),
        (("--option", "penalty_weight=NaN"), "--option 'penalty_weight=NaN' is no JSON"),
        (("--option", "seed=1e400"), "--option 'seed=1e400' is no JSON"),
        (("--option", f"seed={'9' * 5000}"), "is no JSON"),
        (("--sources", "a,,b"), "--sources 'a,,b' has an empty name"),
        (("--seed", "-1"), "--seed"),
    ],
)
def test_bad_options_of_a_fit_are_usage_errors(
    run: Run, args: tuple[str, ...], message: str
) -> None:
    ran = run("fit", "mix", "--task", "pets", *args)
    assert ran.status == 2
    assert message in " ".join(ran.err.split())


def test_a_refusal_is_one_line(run: Run, server: "ScriptedServer") -> None:
    server.will_answer({"type": "t", "title": "No such task", "detail": "task='pets'"}, 404)
    ran = run("fit", "mix", "--task", "pets")
    assert (ran.status, ran.err) == (1, "hgprompt: No such task: task='pets'\n")


def test_an_absent_service_is_one_line_with_a_hint(run: Run) -> None:
    ran = run("ensembles", "ls", "--url", "http://127.0.0.1:1")
    assert ran.status == 1
    assert ran.err.startswith("hgprompt: no answer from http://127.0.0.1:1 (")
    assert ran.err.endswith("is the service running? (hgprompt up)\n")


def test_show_prints_text_or_json(run: Run, server: "ScriptedServer") -> None:
    for _ in range(2):
        server.will_answer({**QUEUED, "status": "succeeded", "result": RESULT})
    assert "Nothing simpler is as good." in run("ensembles", "show", "mix").out
    shown = json.loads(run("ensembles", "show", "mix", "--version", "2", "--json").out)
    assert shown["result"]["weights"] == RESULT["weights"]
    assert server.received[1].target == "/v1/ensembles/mix?version=2"


def test_cancel(run: Run, server: "ScriptedServer") -> None:
    server.will_answer({**QUEUED, "status": "cancelled"}, 202)
    assert run("cancel", "mix").out == "mix@2 cancelled\n"


def classification(*rows: object) -> dict[str, object]:
    reference = {"name": "mix", "version": 2, "digest": "sha256:dd"}
    return {"ensemble": reference, "predictions": rows}


CAT = [
    {"label": "cat", "index": 0, "probability": 0.923},
    {"label": "dog", "index": 1, "probability": 0.077},
]


def test_classify_shows_a_row_for_each_image(
    run: Run, server: "ScriptedServer", tmp_path: Path
) -> None:
    images = [tmp_path / "1.png", tmp_path / "2.png"]
    for image in images:
        image.write_bytes(b"image")
    problem = {"type": "t", "title": "Not an image", "detail": "truncated", "status": 415}
    server.will_answer(classification(CAT, {"error": problem}))
    ran = run("classify", "mix", *images, "--top-k", "2")
    assert ran.status == 1
    assert ran.out.splitlines()[1].split() == [str(images[0]), "cat", "92.3%", "dog", "7.7%"]
    assert ran.err == f"hgprompt: {images[1]}: truncated\n"


def test_a_lone_image_that_is_none_is_named(
    run: Run, server: "ScriptedServer", tmp_path: Path
) -> None:
    (tmp_path / "x.svg").write_bytes(b"<svg/>")
    server.will_answer({"type": "t", "title": "Not an image", "detail": "SVG"}, 415)
    ran = run("classify", "mix", tmp_path / "x.svg")
    assert (ran.status, ran.out) == (1, "")
    assert ran.err == f"hgprompt: {tmp_path}/x.svg: SVG\n"


def test_classify_as_json_is_one_object_a_line(
    run: Run, server: "ScriptedServer", tmp_path: Path
) -> None:
    (tmp_path / "1.png").write_bytes(b"image")
    server.will_answer(classification(CAT))
    ran = run("classify", "mix", tmp_path / "1.png", "--json")
    assert json.loads(ran.out) == {"image": str(tmp_path / "1.png"), "predictions": CAT}


def test_many_or_large_images_are_sent_in_batches(
    run: Run, server: "ScriptedServer", tmp_path: Path
) -> None:
    images = [tmp_path / f"{i}.png" for i in range(19)]
    for image in images:
        image.write_bytes(b"image")
    with images[17].open("wb") as large:
        large.truncate(32_000_000)
    for count in (16, 1, 1, 1):
        server.will_answer(classification(*[CAT] * count))
    ran = run("classify", "mix", *images)
    assert [line.split()[0] for line in ran.out.splitlines()[1:]] == [str(i) for i in images]


def test_the_report_is_saved(run: Run, server: "ScriptedServer", tmp_path: Path) -> None:
    server.will_answer("<html>", Content_Type="text/html")
    assert run("report", "mix", "-o", tmp_path / "r.html").status == 0
    assert (tmp_path / "r.html").read_text() == "<html>"


def test_a_report_that_cannot_be_written_is_one_line(
    run: Run, server: "ScriptedServer", tmp_path: Path
) -> None:
    server.will_answer("<html>", Content_Type="text/html")
    ran = run("report", "mix", "-o", tmp_path / "absent" / "r.html")
    assert ran.status == 1
    assert (
        ran.err == f"hgprompt: cannot write {tmp_path}/absent/r.html: No such file or directory\n"
    )


def test_what_the_terminal_cannot_write_is_replaced(server: "ScriptedServer") -> None:
    server.will_answer({"items": [{**QUEUED, "name": "größe"}], "next_cursor": None})
    done = subprocess.run(
        [sys.executable, "-m", "client", "ensembles", "ls", "--url", server.url],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    assert "gr??e" in done.stdout


@pytest.mark.parametrize("num_items", [1, 1000])  # written at the end, and before it
@pytest.mark.parametrize("command", [("ls",), ("show", "mix", "--json"), ("rm", "mix")])
def test_a_full_disk_is_one_line(
    server: "ScriptedServer", command: tuple[str, ...], num_items: int
) -> None:
    reply = {"items": num_items * [QUEUED], "next_cursor": None}
    match command[0]:
        case "ls":
            server.will_answer(reply)
        case "show":
            server.will_answer({**QUEUED, "name": "x" * num_items * 100})
        case _:
            server.will_answer("", 204)
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "client", "ensembles", *command, "--url", server.url],
            cwd=Path(__file__).parents[2],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.stderr == "hgprompt: cannot write: No space left on device\n"
    assert done.returncode == 1


def test_a_reader_that_has_gone_is_no_line(server: "ScriptedServer") -> None:
    server.will_answer({"items": [QUEUED], "next_cursor": None})
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "client", "ensembles", "ls", "--url", server.url],
        cwd=Path(__file__).parents[2],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


def test_arguments_of_a_worker_command_are_forwarded_with_its_exit_status() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "client", "train-prompt", "--name", "x", "--no-such-option"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("usage: hgprompt train-prompt")
