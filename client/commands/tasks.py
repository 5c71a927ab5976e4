"""`hgprompt tasks`: labelled target images in the registry."""

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from client.api import DEFAULT_URL
from client.commands.options import UrlOption, connect, own_path
from client.console import list_table, make_console, print_list, short_digest, size

app = typer.Typer(help="Labelled images: push, ls, rm.", no_args_is_help=True)


@app.command("push")
def push(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH",
            exists=True,
            help="One folder of images per class, alone or as zip or tar; or a parquet file.",
        ),
    ],
    name: Annotated[
        str | None,
        typer.Option(help="Name of the task; without it the path's, less its suffix."),
    ] = None,
    url: UrlOption = DEFAULT_URL,
) -> None:
    """Upload labelled images.

    A name that exists gets a new version, unless the bytes are the same.
    """
    console = make_console()
    columns = (TextColumn("uploading"), BarColumn(), DownloadColumn())
    with (
        connect(url) as client,
        Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar,
    ):
        upload = bar.add_task("", total=None)
        task = client.put_task(
            name or own_path(path).name.partition(".")[0],
            path,
            lambda sent, total: bar.update(upload, completed=sent, total=total),
        )
    console.print(
        f"{task.name}@{task.version}  {short_digest(task.digest)}  "
        f"{task.num_images} images, {len(task.classes)} classes"
    )


@app.command("ls")
def ls(url: UrlOption = DEFAULT_URL) -> None:
    """List tasks, the newest version of each."""
    numbers = ("version", "images", "classes", "size")
    table = list_table("name", *numbers, "digest", "created", right=numbers)
    with connect(url) as client:
        for task in client.list_tasks():
            table.add_row(
                task.name,
                str(task.version),
                str(task.num_images),
                str(len(task.classes)),
                size(task.size_bytes),
                short_digest(task.digest),
                f"{task.created_at:%Y-%m-%d}",
            )
    print_list(make_console(), table, "no tasks yet; see `hgprompt tasks push --help`")


@app.command("rm")
def rm(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The task.")],
    url: UrlOption = DEFAULT_URL,
) -> None:
    """Delete every version of a task.

    Ensembles that were fitted to it stay.
    """
    with connect(url) as client:
        client.delete_task(name)
    print(f"{name} deleted")
