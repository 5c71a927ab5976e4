"""Bodies of requests and replies."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from client.errors import ClientError, UnexpectedReplyError

CHUNK_BYTES = 1 << 18

_Model = TypeVar("_Model", bound=BaseModel)


def parse_reply(model: type[_Model], response: httpx.Response) -> _Model:
    """Reads a JSON answer.

    Raises:
        UnexpectedReplyError: If it does not follow the contract; names the first field that
            does not.
    """
    try:
        return model.model_validate_json(response.content)
    except ValidationError as exc:
        error = exc.errors()[0]
        field = ".".join(str(part) for part in error["loc"]) or "body"
        raise UnexpectedReplyError(
            f"{response.request.method} {response.request.url.path} gave no valid "
            f"{model.__name__}: {field}: {error['msg']}"
        ) from exc


def read_file(path: Path) -> bytes:
    """The bytes of a file.

    Raises:
        ClientError: If it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as exc:
        raise ClientError(f"cannot read {path}: {exc.strerror}") from exc


def file_size_bytes(path: Path) -> int:
    """The size of a readable file.

    Raises:
        ClientError: If it cannot be read.
    """
    try:
        with path.open("rb"):
            return path.stat().st_size
    except OSError as exc:
        raise ClientError(f"cannot read {path}: {exc.strerror}") from exc


def file_chunks(
    path: Path, size_bytes: int, on_bytes: Callable[[int, int], None] | None
) -> Iterator[bytes]:
    """Yields a file piece by piece and calls `on_bytes(sent, all)` after each."""
    sent_bytes = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk
            sent_bytes += len(chunk)
            if on_bytes is not None:
                on_bytes(sent_bytes, size_bytes)


def write_file(path: Path, data: bytes) -> None:
    """Writes a file.

    Raises:
        ClientError: If that is impossible.
    """
    try:
        path.write_bytes(data)
    except OSError as exc:
        raise ClientError(f"cannot write {path}: {exc.strerror}") from exc
