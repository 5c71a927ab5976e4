"""Movable names for versions, with their whole history, as create-only documents.

| key | holds |
|---|---|
| `<root>/<name>/aliases/<alias>/<8 digits>.json` | one move: the versions from then on, or none |

Moves are numbered from 1 without gaps, because a move is created only after the one before it has
been seen. The last one is what the alias means; a move to no version deletes it. Two writers who
saw the same last move want to create the same key, and the store lets one of them.

A move that was damaged at rest is left out of lists, with a line in the log. If it is the last one,
nobody knows where the alias points, or whether it was deleted, until the next move.
"""

import logging
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from prompt_store.clock import Clock
from prompt_store.documents import get_document, put_document
from prompt_store.errors import (
    ConflictError,
    CorruptDocumentError,
    NotFoundError,
    PreconditionFailedError,
)
from prompt_store.manifests import Page
from prompt_store.names import check_alias, check_name
from prompt_store.numbering import last_number
from prompt_store.objects import ObjectStore
from prompt_store.splits import Split

logger = logging.getLogger(__name__)

_MAX_LOST_RACES = 1000

Expected = Callable[[int | None], bool]
"""Says, given the number of an alias's last move (None: it does not exist), whether to write."""

Lives = Callable[[str, int], bool]
"""Says whether a version of a name has not been deleted."""


class Move(BaseModel):
    """One entry of an alias's history.

    Attributes:
        number: Counts from 1, also through deletions.
        split: Where the alias points from then on; None deletes it.
        moved_at: When, with a time zone.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    alias: str
    number: Annotated[int, Field(ge=1)]
    split: Split | None
    moved_at: datetime


class AliasBook:
    """The aliases of every name below one root. Safe to share between threads and processes.

    Args:
        objects: Where the moves are kept.
        root: Such as `prompts`.
        clock: Tells when a move was made.
        lives: An alias of which a version has been deleted does not exist any more.
    """

    def __init__(
        self,
        objects: ObjectStore,
        root: str,
        clock: Clock,
        lives: Lives = lambda _name, _version: True,
    ) -> None:
        self._objects = objects
        self._root = root
        self._clock = clock
        self._lives = lives

    def current(self, name: str, alias: str, *, known: Move | None = None) -> Move:
        """Return the last move of an alias that exists.

        Args:
            name: Whose alias.
            alias: The alias.
            known: A move that was the last one once. If it still is, this costs one look for the
                next, however long the history is.

        Raises:
            NotFoundError: There is no such alias.
            NameInvalidError: The name or the alias is malformed.
            CorruptDocumentError: Its last move is damaged.
        """
        last = self._last(check_name(name), check_alias(alias), known)
        living = None if last is None else self._living(last)
        if living is None:
            state = "has no alias" if last is None else "has no longer an alias"
            raise NotFoundError(f"{name} in {self._root} {state} {alias}")
        return living

    def move(self, name: str, alias: str, split: Split, expected: Expected) -> tuple[Move, bool]:
        """Point an alias somewhere, if it stands as the caller expects it to.

        An alias that already points there is left as it is. One whose last move is damaged is moved
        if the condition holds for the number of that move.

        Args:
            name: Whose alias; the caller has made sure that the versions exist.
            alias: The alias.
            split: Where to point it.
            expected: The condition; judged again whenever another writer was faster.

        Returns:
            The last move, which is on the disk, and whether the alias did not exist before.

        Raises:
            PreconditionFailedError: The alias does not stand as expected; nothing was written.
            ConflictError: Other writers were faster 1000 times in a row.
            CorruptDocumentError: The last move is damaged, and the condition does not hold for it.
            StoreFullError, StoreUnavailableError: Nothing was acknowledged.
        """
        return self._write(name, alias, split, expected)

    def delete(self, name: str, alias: str, expected: Expected) -> None:
        """Delete an alias, if it stands as the caller expects it to; its history stays.

        Raises:
            NotFoundError: There is no such alias.
            PreconditionFailedError, ConflictError, CorruptDocumentError, StoreUnavailableError: As
                `move`.
        """
        with suppress(CorruptDocumentError):  # the condition decides
            self.current(name, alias)
        self._write(name, alias, None, expected)

    def page(self, name: str, cursor: str | None, limit: int) -> Page[Move]:
        """Return the last move of each alias of a name that exists, in order of aliases.

        Damaged ones are left out and logged.

        Args:
            name: Whose aliases.
            cursor: `next_cursor` of the page before, None for the first page.
            limit: At most so many items, at least 1.
        """
        after = "" if cursor is None else check_name(cursor)
        items: list[Move] = []
        for alias in self._objects.children(f"{self._root}/{check_name(name)}/aliases"):
            living = self._readable(partial(self._standing, name, alias)) if alias > after else None
            if living is None:
                continue
            if len(items) == limit:
                return Page(items=tuple(items), next_cursor=items[-1].alias)
            items.append(living)
        return Page(items=tuple(items), next_cursor=None)

    def history(self, name: str, alias: str, before: int | None, limit: int) -> Page[Move]:
        """Return the moves of an alias, latest first, those of a deleted one too.

        Damaged ones are left out and logged.

        Args:
            name: Whose alias.
            alias: The alias.
            before: Only moves with lower numbers, None for all.
            limit: At most so many items, at least 1.

        Raises:
            NotFoundError: There has never been such an alias.
        """
        last = self._last_number(check_name(name), check_alias(alias))
        if not last:
            raise NotFoundError(f"{name} in {self._root} has no alias {alias}")
        first = last if before is None else min(before - 1, last)
        numbers = range(first, max(first - limit, 0), -1)
        found = (self._readable(partial(self._read, name, alias, number)) for number in numbers)
        items = tuple(move for move in found if move is not None)
        more = bool(numbers) and numbers[-1] > 1
        return Page(items=items, next_cursor=str(numbers[-1]) if more else None)

    def _write(
        self, name: str, alias: str, split: Split | None, expected: Expected
    ) -> tuple[Move, bool]:
        last = 0
        for _ in range(_MAX_LOST_RACES):
            last = self._last_number(check_name(name), check_alias(alias), last)
            living, exists = self._replaced(name, alias, last, expected)
            if living is not None and living.split == split:
                # Its writer may have been killed before it could make sure of this.
                self._objects.sync(self._key(name, alias, living.number))
                return living, False
            number = last + 1
            move = Move(name=name, alias=alias, number=number, split=split, moved_at=self._clock())
            if put_document(self._objects, self._key(name, alias, number), move):
                return move, not exists
        raise ConflictError(
            f"{name}@{alias} in {self._root}: other writers moved it {_MAX_LOST_RACES} times in "
            "a row"
        )

    def _check(self, name: str, alias: str, living: Move | None, expected: Expected) -> None:
        current = None if living is None else living.number
        if not expected(current):
            state = "does not exist" if current is None else f"is at move {current}"
            raise PreconditionFailedError(
                f"alias {alias} of {name} in {self._root} {state}", current=current
            )

    def _replaced(
        self, name: str, alias: str, last: int, expected: Expected
    ) -> tuple[Move | None, bool]:
        """What the move after `last` replaces, if it can be read; and whether there is anything."""
        try:
            living = self._living(self._read(name, alias, last)) if last else None
        except CorruptDocumentError as error:
            if not expected(last):
                raise
            logger.error("replaced: %s", error)  # noqa: TRY400
            return None, True
        self._check(name, alias, living, expected)
        return living, living is not None

    def _living(self, last: Move) -> Move | None:
        if last.split is None:
            return None
        alive = all(self._lives(last.name, version) for version in last.split.weights)
        return last if alive else None

    def _standing(self, name: str, alias: str) -> Move | None:
        last = self._last(name, alias)
        return None if last is None else self._living(last)

    def _readable(self, read: Callable[[], Move | None]) -> Move | None:
        """What a list shows; None for damage."""
        try:
            return read()
        except CorruptDocumentError as error:
            logger.error("left out: %s", error)  # noqa: TRY400
            return None

    def _last(self, name: str, alias: str, known: Move | None = None) -> Move | None:
        """The last move, looked for from the last one that is known."""
        start = 0 if known is None else known.number
        last = self._last_number(name, alias, start)
        return known if last == start else self._read(name, alias, last)

    def _last_number(self, name: str, alias: str, start: int = 0) -> int:
        return last_number(partial(self._exists, name, alias), start)

    def _exists(self, name: str, alias: str, number: int) -> bool:
        return self._objects.size(self._key(name, alias, number)) is not None

    def _read(self, name: str, alias: str, number: int) -> Move:
        return get_document(self._objects, self._key(name, alias, number), Move)

    def _key(self, name: str, alias: str, number: int) -> str:
        return f"{self._root}/{name}/aliases/{alias}/{number:08d}.json"
