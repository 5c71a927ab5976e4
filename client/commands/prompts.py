"""`hgprompt prompts`: source prompts in the registry."""

from pathlib import Path
from typing import Annotated

import typer

from client.api import DEFAULT_URL
from client.commands.options import UrlOption, connect, own_path
from client.console import list_table, make_console, print_list, short_digest, size

app = typer.Typer(help="Source prompts: push, ls, rm.", no_args_is_help=True)


@app.command("push")
def push(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE", help="Safetensors files, or folders that PEFT saved."),
    ],
    name: Annotated[
        str | None,
        typer.Option(help="Name of the prompt; without it the file's, less its suffix."),
    ] = None,
    url: UrlOption = DEFAULT_URL,
) -> None:
    """Upload prompts.

    A name that exists gets a new version, unless the bytes are the same.
    """
    if name is not None and len(files) > 1:
        raise typer.BadParameter(f"--name fits one file, not {len(files)}")
    console = make_console()
    with connect(url) as client:
        for file in files:
            prompt = client.put_prompt(name or own_path(file).stem, file)
            console.print(
                f"{prompt.name}@{prompt.version}  {short_digest(prompt.digest)}  "
                f"{prompt.num_prompt_tokens} tokens, depth {prompt.prompt_depth}"
            )


@app.command("ls")
def ls(
    label: Annotated[
        str | None,
        typer.Option(metavar="KEY[=VALUE]", help="Only prompts with this label in their metadata."),
    ] = None,
    url: UrlOption = DEFAULT_URL,
) -> None:
    """List prompts, the newest version of each."""
    numbers = ("version", "tokens", "depth", "size")
    table = list_table("name", *numbers, "classes", "digest", "created", right=numbers)
    with connect(url) as client:
        for prompt in client.list_prompts(label=label):
            table.add_row(
                prompt.name,
                str(prompt.version),
                str(prompt.num_prompt_tokens),
                str(prompt.prompt_depth),
                size(prompt.size_bytes),
                str(len(prompt.classes)) if prompt.classes else "-",
                short_digest(prompt.digest),
                f"{prompt.created_at:%Y-%m-%d}",
            )
    print_list(make_console(), table, "no prompts yet; see `hgprompt prompts push --help`")


@app.command("rm")
def rm(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The prompt.")],
    url: UrlOption = DEFAULT_URL,
) -> None:
    """Delete every version of a prompt.

    Refused while an ensemble depends on it.
    """
    with connect(url) as client:
        client.delete_prompt(name)
    print(f"{name} deleted")
