"""The `hgprompt` command."""

import errno
import importlib.metadata
import io
import os
import sys
from typing import Annotated

import typer

from client.commands import aliases, classify, ensembles, local, prompts, tasks
from client.errors import ClientError, ServiceUnreachableError

_OUTPUT_LOST = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EPIPE})
"""What writing to standard output fails with: the disk is full or broken, the reader gone."""

app = typer.Typer(
    name="hgprompt",
    help="Learn the best mixture of visual prompts; serve every task from one frozen backbone.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(prompts.app, name="prompts")
app.add_typer(tasks.app, name="tasks")
app.add_typer(ensembles.app, name="ensembles")
app.add_typer(aliases.app, name="aliases")
app.command("fit")(ensembles.fit)
app.command("cancel")(ensembles.cancel)
app.command("report")(ensembles.report)
app.command("classify")(classify.classify)
app.command("up")(local.up)
app.command("demo")(local.demo)
for _name, _command in (("train-prompt", local.train_prompt), ("verify", local.verify)):
    app.command(_name, context_settings=local.FORWARDED, add_help_option=False)(_command)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"hgprompt {_version()}")
        raise typer.Exit


def _version() -> str:
    try:
        return importlib.metadata.version("hgprompt")
    except importlib.metadata.PackageNotFoundError:
        return "(source tree, not installed)"


@app.callback()
def _options(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    del version  # its callback has done the work


def main() -> None:
    """Runs the command line; what users got wrong is one line and exit status 1 or 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a name that cannot be written is no crash
    try:
        try:
            app(prog_name="hgprompt")
        finally:
            _flush()
    except ServiceUnreachableError as exc:
        sys.exit(f"hgprompt: {one_line(exc)}; is the service running? (hgprompt up)")
    except ClientError as exc:
        sys.exit(f"hgprompt: {one_line(exc)}")
    except OSError as exc:
        if exc.errno not in _OUTPUT_LOST:
            raise
        _give_up_stdout()
        sys.exit(1 if exc.errno == errno.EPIPE else f"hgprompt: cannot write: {exc.strerror}")


def _flush() -> None:
    """Writes what is left; the interpreter would tell of a failure in lines of its own."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # there may be none
        sys.stdout.flush()


def _give_up_stdout() -> None:
    """Lets the interpreter, which tries once more at exit, write what is left to nowhere."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def one_line(exc: Exception) -> str:
    """An error's text without line breaks."""
    return " ".join(str(exc).split())
