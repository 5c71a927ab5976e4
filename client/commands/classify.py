"""`hgprompt classify`."""

import json
import sys
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Annotated

import typer

from client.api import DEFAULT_URL, Client
from client.bodies import read_file
from client.commands.options import ReferenceArgument, UrlOption, connect
from client.console import list_table, make_console, print_list
from client.errors import ClientError, ProblemError
from client.replies import Prediction, RowError, RowProblem

BATCH_IMAGES = 16
BATCH_BYTES = 32_000_000
IMAGE_STATUSES = frozenset({HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.UNSUPPORTED_MEDIA_TYPE})

Row = tuple[Prediction, ...] | RowError


def classify(
    name: ReferenceArgument,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE", help="Image files.")],
    top_k: Annotated[
        int, typer.Option(min=1, help="Classes to show for an image, the likeliest first.")
    ] = 3,
    assignment_key: Annotated[
        str | None,
        typer.Option(
            metavar="KEY",
            help="With an alias of several versions: the same key gets the same version.",
        ),
    ] = None,
    *,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a line of JSON for each image.")
    ] = False,
    url: UrlOption = DEFAULT_URL,
) -> None:
    """Classify images; exit status 1 if one of them could not be."""
    table = list_table("image", *(f"#{k + 1}" for k in range(top_k)))
    failed = False
    try:
        with connect(url) as client:
            for path, row in _classified(client, name, images, top_k, assignment_key):
                if isinstance(row, RowError):
                    failed = True
                    sys.stderr.write(f"hgprompt: {path}: {row.error.detail or row.error.title}\n")
                elif as_json:
                    predictions = [each.model_dump() for each in row]
                    print(json.dumps({"image": str(path), "predictions": predictions}))
                else:
                    table.add_row(str(path), *(f"{p.label} {p.probability:.1%}" for p in row))
    finally:  # what has been classified is shown, whatever happens to the rest
        if table.row_count:
            print_list(make_console(), table, "")
    if failed:
        raise typer.Exit(1)


def _classified(
    client: Client, name: str, paths: list[Path], top_k: int, key: str | None
) -> Iterator[tuple[Path, Row]]:
    unread: list[tuple[Path, RowError]] = []
    for batch in _batches(paths, unread):
        images = [image for _, image in batch]
        for (path, _), row in zip(batch, _rows(client, name, images, top_k, key), strict=True):
            yield path, row
    yield from unread


def _batches(
    paths: list[Path], unread: list[tuple[Path, RowError]]
) -> Iterator[list[tuple[Path, bytes]]]:
    """Groups images so that no request is too large, unless one image alone is.

    Files that cannot be read are left out and added to `unread`.
    """
    batch: list[tuple[Path, bytes]] = []
    batch_bytes = 0
    for path in paths:
        try:
            image = read_file(path)
        except ClientError as exc:
            unread.append((path, RowError(error=RowProblem(title=str(exc)))))
            continue
        if batch and (len(batch) == BATCH_IMAGES or batch_bytes + len(image) > BATCH_BYTES):
            yield batch
            batch, batch_bytes = [], 0
        batch.append((path, image))
        batch_bytes += len(image)
    if batch:
        yield batch


def _rows(
    client: Client, name: str, images: list[bytes], top_k: int, key: str | None
) -> tuple[Row, ...]:
    """One row per image; a lone image that is refused gets a row as it would among others."""
    try:
        return client.classify(name, images, top_k, assignment_key=key).predictions
    except ProblemError as exc:
        if len(images) > 1 or exc.status not in IMAGE_STATUSES:
            raise
        problem = RowProblem(title=exc.title, detail=exc.detail, status=exc.status)
        return (RowError(error=problem),)
