"""Options that several commands share."""

import os
from pathlib import Path
from typing import Annotated

import typer

from client.api import Client

UrlOption = Annotated[
    str, typer.Option("--url", envvar="HGPROMPT_URL", help="Address of the service.")
]
EnsembleArgument = Annotated[str, typer.Argument(metavar="NAME", help="The ensemble.")]
ReferenceArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="The ensemble: name, name@version or name@alias.")
]
VersionOption = Annotated[
    int | None,
    typer.Option(
        "--version",
        min=1,
        help="Which version; without it the newest that succeeded, or else the newest.",
    ),
]


def own_path(path: Path) -> Path:
    """The path with a name of its own, also of `.` and `..`; links are not followed."""
    return Path(os.path.abspath(path))  # noqa: PTH100  resolve() would follow links


def connect(url: str) -> Client:
    """A client for the service at `url`."""
    return Client(url)
