"""`hgprompt fit`, `ensembles`, `cancel`, `report`."""

import json
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from client.api import DEFAULT_URL, Client
from client.bodies import write_file
from client.commands.options import EnsembleArgument, UrlOption, VersionOption, connect
from client.console import list_table, make_console, print_list, short_digest
from client.errors import FitFailedError
from client.fit_progress import FitProgressView
from client.fit_summary import METHOD_LABELS, print_findings
from client.replies import Ensemble

app = typer.Typer(help="Ensembles: ls, show, rm.", no_args_is_help=True)

METHODS = f"How the prompt is made: one of {', '.join(METHOD_LABELS)}."
INTERRUPTED = 130  # 128 + SIGINT, as shells report it


def fit(  # noqa: PLR0917  one parameter an option
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="The ensemble; one that exists is fitted again as a new version."
        ),
    ],
    task: Annotated[str, typer.Option(help="Labelled images: name, name@version or digest.")],
    sources: Annotated[
        str,
        typer.Option(
            help="Source prompts, comma-separated: each name, name@version, name@alias or digest; "
            "or all."
        ),
    ] = "all",
    method: Annotated[str, typer.Option(help=METHODS)] = "hgprompt",
    option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE", help="Option of the fit, such as tuning_epochs=10; repeatable."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of all random choices.")] = 0,
    wait: Annotated[bool, typer.Option(help="Wait, and show progress and result.")] = True,
    url: UrlOption = DEFAULT_URL,
) -> None:
    """Learn an ensemble of prompts for a task."""
    console = make_console()
    with connect(url) as client:
        ensemble = client.create_ensemble(
            name,
            task=task,
            sources=parse_sources(sources),
            method=method,
            options=parse_options(option or []),
            seed=seed,
        )
        console.print(f"{ensemble.name}@{ensemble.version} {ensemble.status}")
        for each in ensemble.left_out:
            console.print(f"without {each.name}: {each.reason}", soft_wrap=True)
        if wait:
            show_result(console, follow(client, console, ensemble))


def parse_sources(text: str) -> str | list[str]:
    """Reads "all" or a comma-separated list."""
    if text == "all":
        return text
    sources = [part.strip() for part in text.split(",")]
    if not all(sources):
        raise typer.BadParameter(f"--sources {text!r} has an empty name")
    return sources


def parse_options(texts: Sequence[str]) -> dict[str, object]:
    """Reads every KEY=VALUE."""
    options: dict[str, object] = {}
    for text in texts:
        key, value = parse_option(text)
        if key in options:
            raise typer.BadParameter(f"--option {key!r} is given twice")
        options[key] = value
    return options


def parse_option(text: str) -> tuple[str, object]:
    """Reads KEY=VALUE; the value is JSON if it can be, else text."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise typer.BadParameter(f"--option {text!r} is not KEY=VALUE")
    try:
        parsed = json.loads(value)
        json.dumps(parsed, allow_nan=False)
    except json.JSONDecodeError:
        return key, value
    except (ValueError, RecursionError) as exc:
        raise typer.BadParameter(
            f"--option {textwrap.shorten(text, 60)!r} is no JSON: {exc}"
        ) from exc
    return key, parsed


def follow(client: Client, console: Console, ensemble: Ensemble) -> Ensemble:
    """Shows progress until the fit ends.

    Raises:
        FitFailedError: If it ends without an artifact.
    """
    label = f"{ensemble.name}@{ensemble.version}"
    try:
        with FitProgressView(console) as view:
            ended = client.wait(ensemble.name, ensemble.version, view.update)
    except KeyboardInterrupt:
        sys.stderr.write(f"{label} goes on; to end it: hgprompt cancel {ensemble.name}\n")
        raise typer.Exit(INTERRUPTED) from None
    if ended.status != "succeeded":
        raise FitFailedError(ended.why())
    return ended


def show_result(console: Console, ensemble: Ensemble) -> None:
    """Prints what a fit found, if it has ended well."""
    if ensemble.result is not None:
        console.print()
        print_findings(console, ensemble.result, ensemble.method)


@app.command("ls")
def ls(url: UrlOption = DEFAULT_URL) -> None:
    """List ensembles.

    Of each the newest version that succeeded, or else the newest.
    """
    table = list_table("name", "version", "status", "method", "digest", right=("version",))
    with connect(url) as client:
        for each in client.list_ensembles():
            digest = short_digest(each.digest)
            table.add_row(each.name, str(each.version), each.status, each.method or "-", digest)
    print_list(make_console(), table, "no ensembles yet; see `hgprompt fit --help`")


@app.command("show")
def show(
    name: EnsembleArgument,
    version: VersionOption = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    url: UrlOption = DEFAULT_URL,
) -> None:
    """Show an ensemble's status, weights and leaderboard."""
    console = make_console()
    with connect(url) as client:
        ensemble = client.ensemble(name, version)
    if as_json:
        print(ensemble.model_dump_json(indent=2))
        return
    digest = f"  {ensemble.digest}" if ensemble.digest else ""
    console.print(f"{ensemble.name}@{ensemble.version} {ensemble.status}{digest}")
    if ensemble.error is not None:
        console.print(f"{ensemble.error.title}: {ensemble.error.detail or ''}")
    show_result(console, ensemble)


@app.command("rm")
def rm(name: EnsembleArgument, url: UrlOption = DEFAULT_URL) -> None:
    """Delete every version of an ensemble.

    Refused while one of its fits is queued or running: see `hgprompt cancel`.
    """
    with connect(url) as client:
        client.delete_ensemble(name)
    print(f"{name} deleted")


def cancel(
    name: EnsembleArgument,
    version: Annotated[
        int | None, typer.Option(min=1, help="Which version; without it the newest.")
    ] = None,
    url: UrlOption = DEFAULT_URL,
) -> None:
    """End a queued or running fit."""
    with connect(url) as client:
        ensemble = client.cancel(name, version)
    print(f"{ensemble.name}@{ensemble.version} {ensemble.status}")


def report(
    name: EnsembleArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="The HTML file to write.")],
    version: VersionOption = None,
    url: UrlOption = DEFAULT_URL,
) -> None:
    """Save an ensemble's report: one self-contained HTML page."""
    with connect(url) as client:
        page = client.report(name, version)
    write_file(output, page)
    print(output)
