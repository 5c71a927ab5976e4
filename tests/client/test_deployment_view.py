import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from client.deployment_view import DeploymentView, parse_log_line


def printed(*, verbose: bool, lines: list[tuple[str, str]]) -> str:
    target = io.StringIO()
    view = DeploymentView(Console(file=target, width=80, markup=False), verbose=verbose)
    for name, line in lines:
        view.line(name, line)
    return target.getvalue()


INFO = json.dumps({"level": "INFO", "message": "loaded"})
WARNING = json.dumps({"level": "WARNING", "message": "slow [/bold]"})
LINES = [("service", INFO), ("worker", WARNING), ("worker", "plain"), ("redis", "1:C banner")]


def test_what_is_serious_or_no_log_line_is_shown() -> None:
    assert printed(verbose=False, lines=LINES) == " worker | slow [/bold]\n worker | plain\n"


def test_verbose_shows_everything() -> None:
    text = printed(verbose=True, lines=LINES)
    assert text.splitlines()[0] == "service | loaded"
    assert text.splitlines()[-1] == "  redis | 1:C banner"


def test_a_console_that_cannot_be_written_ends_nothing() -> None:
    with Path("/dev/full").open("wb", buffering=0) as full:
        console = Console(file=io.TextIOWrapper(full, write_through=True), width=80)
        view = DeploymentView(console, verbose=True)
        for _ in range(2):
            view.line("worker", WARNING)
            view.note("a note")
            view.stage("a stage")


@pytest.mark.parametrize("line", ["{not json", "", "Traceback (most recent call last):"])
def test_a_line_that_is_no_json_has_no_level(line: str) -> None:
    assert parse_log_line(line) == (None, line)


def test_the_last_line_of_a_traceback_is_kept() -> None:
    record = {"level": "ERROR", "message": "failed", "exc_info": "Traceback\n  x\nKeyError: 1"}
    assert parse_log_line(json.dumps(record)) == ("ERROR", "failed (KeyError: 1)")


def test_a_stage_is_a_line_in_a_log_and_not_repeated() -> None:
    target = io.StringIO()
    with DeploymentView(Console(file=target, width=80), verbose=False) as view:
        view.stage("loading")
        view.stage("loading")
        view.stage("waiting")
    assert target.getvalue() == "loading ...\nwaiting ...\n"


def test_a_stage_is_a_spinner_on_a_terminal() -> None:
    target = io.StringIO()
    console = Console(file=target, width=80, force_terminal=True)
    with DeploymentView(console, verbose=False) as view:
        view.stage("loading")
        view.note("a note")
    assert "loading" in target.getvalue()
    assert "a note" in target.getvalue()
