"""`hgprompt aliases`: movable names for versions."""

import math
from typing import Annotated, Literal

import typer

from client.aliases import Aliases, Target
from client.api import DEFAULT_URL, Client
from client.commands.options import UrlOption, connect
from client.console import list_table, make_console, print_list
from client.replies import Alias

app = typer.Typer(
    help="Aliases of versions, such as prod: ls, set, history, rm.", no_args_is_help=True
)

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The ensemble, or prompt.")]
AliasArgument = Annotated[str, typer.Argument(metavar="ALIAS", help="The alias, such as prod.")]
PromptOption = Annotated[bool, typer.Option("--prompt", help="NAME is a prompt, not an ensemble.")]


@app.command("ls")
def ls(name: NameArgument, *, prompt: PromptOption = False, url: UrlOption = DEFAULT_URL) -> None:
    """List the aliases of an ensemble or prompt."""
    table = list_table("alias", "versions", "move", "moved", right=("move",))
    with connect(url) as client:
        for each in _aliases(client, prompt=prompt).list(name):
            table.add_row(each.alias, versions(each), str(each.move), _time(each))
    print_list(make_console(), table, "no aliases yet; see `hgprompt aliases set --help`")


@app.command("set")
def set_(
    name: NameArgument,
    alias: AliasArgument,
    targets: Annotated[
        list[str],
        typer.Argument(
            metavar="VERSION",
            help="A version; of an ensemble also several as VERSION=WEIGHT, with weights of sum 1.",
        ),
    ],
    if_match: Annotated[
        str | None,
        typer.Option(
            metavar="MOVE",
            help="The move that the alias is at, as ls shows it, or * for any; without it the "
            "alias must be new.",
        ),
    ] = None,
    *,
    prompt: PromptOption = False,
    url: UrlOption = DEFAULT_URL,
) -> None:
    """Create or move an alias, if nobody else has moved it meanwhile."""
    target = parse_targets(targets)
    expected = None if if_match is None else parse_move(if_match)
    with connect(url) as client:
        moved = _aliases(client, prompt=prompt).set(name, alias, target, if_match=expected)
    print(f"{name}@{alias}  {versions(moved)}  move {moved.move}")


@app.command("history")
def history(
    name: NameArgument,
    alias: AliasArgument,
    limit: Annotated[int, typer.Option(min=1, help="At most so many moves.")] = 20,
    *,
    prompt: PromptOption = False,
    url: UrlOption = DEFAULT_URL,
) -> None:
    """List the moves of an alias, the latest first."""
    table = list_table("move", "versions", "moved", right=("move",))
    with connect(url) as client:
        moves = _aliases(client, prompt=prompt).history(name, alias)
        for _, each in zip(range(limit), moves, strict=False):
            table.add_row(str(each.move), versions(each), _time(each))
    print_list(make_console(), table, "no moves")


@app.command("rm")
def rm(
    name: NameArgument,
    alias: AliasArgument,
    if_match: Annotated[
        str,
        typer.Option(
            metavar="MOVE", help="The move that the alias is at, as ls shows it, or * for any."
        ),
    ],
    *,
    prompt: PromptOption = False,
    url: UrlOption = DEFAULT_URL,
) -> None:
    """Delete an alias; its history stays."""
    expected = parse_move(if_match)
    with connect(url) as client:
        _aliases(client, prompt=prompt).delete(name, alias, if_match=expected)
    print(f"{name}@{alias} deleted")


def parse_move(text: str) -> int | Literal["*"]:
    """Reads `*`, or the number of a move, with or without an entity tag's quotes."""
    if text == "*":
        return "*"
    number = text.strip('"')
    if not (number.isascii() and number.isdigit()):
        raise typer.BadParameter(f"--if-match {text!r} is neither the number of a move nor *")
    return int(number)


def parse_targets(texts: list[str]) -> Target:
    """Reads one version, or several with their weights.

    Raises:
        BadParameter: Names the text that is neither.
    """
    if len(texts) == 1 and "=" not in texts[0]:
        return _version(texts[0], texts[0])
    weights: dict[int, float] = {}
    for text in texts:
        version, _, weight = text.partition("=")
        number = _version(version, text)
        if number in weights:
            raise typer.BadParameter(f"version {number} is named twice")
        weights[number] = _weight(weight, text)
    return weights


def versions(alias: Alias) -> str:
    """Where an alias points, in the form that `set` takes."""
    if not alias.versions:
        return "(deleted)"
    if alias.version is not None:
        return str(alias.version)
    return " ".join(f"{share.version}={share.weight:.6g}" for share in alias.versions)


def _version(text: str, whole: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise typer.BadParameter(f"{whole!r} is not a version or VERSION=WEIGHT")
    return int(text)


def _weight(text: str, whole: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not math.isfinite(weight):
        raise typer.BadParameter(f"{whole!r} is not VERSION=WEIGHT")
    return weight


def _aliases(client: Client, *, prompt: bool) -> Aliases:
    return client.prompt_aliases if prompt else client.ensemble_aliases


def _time(alias: Alias) -> str:
    return f"{alias.moved_at:%Y-%m-%d %H:%M:%S}"
