"""Aliases: movable names for versions of ensembles and of prompts."""

from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Literal

import httpx

from client.bodies import parse_reply
from client.errors import AliasMovedError, ProblemError
from client.replies import Alias, Page
from client.transport import Request, Transport, segment

Owner = Literal["ensembles", "prompts"]
Target = int | Mapping[int, float]
IfMatch = int | Literal["*"] | None


class Aliases:
    """The aliases of one kind of thing.

    Every change is a compare-and-swap. It is sent once: if the connection fails, read the alias
    to see whether the change was made.

    Args:
        transport: Sends the requests.
        owner: Whose aliases.
    """

    def __init__(self, transport: Transport, owner: Owner) -> None:
        self._transport = transport
        self._owner = owner

    def get(self, name: str, alias: str) -> Alias:
        """Where an alias points now."""
        return parse_reply(Alias, self._transport.send(Request("GET", self._path(name, alias))))

    def list(self, name: str) -> Iterator[Alias]:
        """All aliases of a name, in order."""
        return self._pages(f"/v1/{self._owner}/{segment(name)}/aliases")

    def history(self, name: str, alias: str) -> Iterator[Alias]:
        """All moves of an alias, the latest first; `versions` is empty where it was deleted."""
        return self._pages(f"{self._path(name, alias)}/history")

    def set(self, name: str, alias: str, target: Target, *, if_match: IfMatch = None) -> Alias:
        """Points an alias somewhere.

        Args:
            name: The ensemble or prompt.
            alias: The alias.
            target: A version; for ensembles also several, with weights that sum to 1.
            if_match: `move` of the alias as it was read; "*" to replace whatever is there; None
                to create it.

        Raises:
            AliasMovedError: The alias is at another move than `if_match`, or exists already.
        """
        body = (
            {"version": target}
            if isinstance(target, int)
            else {"versions": [{"version": v, "weight": w} for v, w in target.items()]}
        )
        response = self._change(
            Request(
                "PUT",
                self._path(name, alias),
                headers=_condition(if_match),
                json=body,
                repeatable=False,
            )
        )
        return parse_reply(Alias, response)

    def delete(self, name: str, alias: str, *, if_match: int | Literal["*"]) -> None:
        """Deletes an alias; its history stays.

        Raises:
            AliasMovedError: The alias is at another move than `if_match`.
        """
        headers = _condition(if_match)
        self._change(Request("DELETE", self._path(name, alias), headers=headers, repeatable=False))

    def _change(self, request: Request) -> httpx.Response:
        try:
            return self._transport.send(request)
        except ProblemError as exc:
            if exc.status != HTTPStatus.PRECONDITION_FAILED:
                raise
            raise AliasMovedError(
                type=exc.type, title=exc.title, detail=exc.detail, status=exc.status
            ) from exc

    def _pages(self, path: str) -> Iterator[Alias]:
        cursor: dict[str, str | int] = {}
        while True:
            response = self._transport.send(Request("GET", path, params=cursor))
            page = parse_reply(Page[Alias], response)
            yield from page.items
            if page.next_cursor is None:
                return
            cursor = {"cursor": page.next_cursor}

    def _path(self, name: str, alias: str) -> str:
        return f"/v1/{self._owner}/{segment(name)}/aliases/{segment(alias)}"


def _condition(if_match: IfMatch) -> dict[str, str]:
    if if_match is None:
        return {"If-None-Match": "*"}
    return {"If-Match": "*" if if_match == "*" else f'"{if_match}"'}
