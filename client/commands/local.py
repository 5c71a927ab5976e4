"""`hgprompt up`, `demo`, `train-prompt`, `verify`: what runs on this machine."""

import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import typer

from client.console import make_console
from client.data_dir import default_data_dir
from client.demo import DemoOptions, run_demo
from client.examples import DEMO_TASK
from client.foreground import run_until_stopped
from client.up import LocalOptions, module_environ, python_module, store_url

FORWARDED = {"allow_extra_args": True, "ignore_unknown_options": True}

HostOption = Annotated[str, typer.Option(envvar="HGPROMPT_HOST", help="Address to listen on.")]
DataDirOption = Annotated[
    Path | None,
    typer.Option(
        envvar="HGPROMPT_DATA_DIR",
        help="Folder for prompts, tasks, ensembles and logs.",
        show_default="hgprompt in the user's data folder, such as ~/.local/share",
    ),
]
VerboseOption = Annotated[
    bool, typer.Option("--verbose", "-v", help="Show the log lines of all processes.")
]


def up(
    host: HostOption = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(
            envvar="HGPROMPT_PORT", min=0, max=65_535, help="Port to listen on; 0 takes a free one."
        ),
    ] = 8000,
    data_dir: DataDirOption = None,
    *,
    verbose: VerboseOption = False,
) -> None:
    """Run the whole service on this machine until Ctrl-C."""
    console = make_console()
    folder = data_dir or default_data_dir(os.environ)
    options = LocalOptions(folder, host, port, os.environ)
    run_until_stopped(options, console, verbose=verbose)


def demo(
    examples: Annotated[
        Path | None,
        typer.Option(
            help="Folder with prompts/ and tasks/.", show_default="those of the source tree"
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="Name of a folder in tasks/.", show_default=f"{DEMO_TASK}, else the first by name"
        ),
    ] = None,
    images: Annotated[int, typer.Option(min=1, help="Held-out images to classify at most.")] = 120,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            help="Folder for prompts, tasks, ensembles and logs.",
            show_default="a new temporary folder",
        ),
    ] = None,
    keep: Annotated[bool, typer.Option(help="Keep the temporary folder.")] = True,
    url: Annotated[
        str | None,
        typer.Option(help="Use the service at this address.", show_default="one of its own"),
    ] = None,
    *,
    verbose: VerboseOption = False,
) -> None:
    """Show it all on examples: upload, learn, classify, report.

    Without --url it starts a service of its own on a free port, and ends it afterwards.
    """
    signal.signal(signal.SIGTERM, _exit)
    options = DemoOptions(examples, task, images, data_dir, keep, url, verbose)
    run_demo(options, make_console(), os.environ)


def _exit(signum: int, frame: FrameType | None) -> NoReturn:
    """Unwinds the stack, so that everything started is ended."""
    del frame
    raise SystemExit(128 + signum)


def train_prompt(ctx: typer.Context) -> None:
    """Train a source prompt on labelled images."""
    _become("worker.train_prompt", ctx.args, os.environ)


def verify(ctx: typer.Context, data_dir: DataDirOption = None) -> None:
    """Recompute an ensemble's prompt and compare digests."""
    environ = dict(os.environ)
    if data_dir is not None or not environ.get("HGPROMPT_STORE_URL"):
        environ["HGPROMPT_STORE_URL"] = store_url(data_dir or default_data_dir(environ))
    _become("worker.verify", ctx.args, environ)


def _become(module: str, args: list[str], environ: Mapping[str, str]) -> NoReturn:
    """Replaces this process, so that signals and the exit status need no forwarding."""
    sys.stdout.flush()
    command = (*python_module(module), *args)
    os.execve(command[0], command, module_environ(environ))  # noqa: S606  no shell wanted
