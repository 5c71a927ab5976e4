"""Numbered versions under names, as create-only documents that concurrent writers race for.

| key | holds |
|---|---|
| `<root>/<name>/versions/<8 digits>.json` | a manifest, or the mark of a deletion |
| `<root>-by-digest/<64 digits>/<name>/<8 digits>` | nothing; says where to look for a digest |

An index key is written before its version, and is believed only if the version then says so too.
Whatever moment a writer is killed at, a version that can be read is complete, and repeating the
call ends as if it had not been killed.

A number whose document was damaged at rest is left out of lists and passed over when a digest is
looked up, with a line in the log.
"""

import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Generic, TypeVar

from pydantic import BaseModel, ConfigDict

from prompt_store.documents import get_document, put_document
from prompt_store.errors import (
    ConflictError,
    CorruptDocumentError,
    NameInvalidError,
    NotFoundError,
    PreconditionFailedError,
)
from prompt_store.manifests import Manifest, Page, next_number
from prompt_store.names import (
    AliasReference,
    NameReference,
    check_name,
    check_version,
    parse_reference,
)
from prompt_store.objects import ObjectStore

logger = logging.getLogger(__name__)

_MAX_LOST_RACES = 1000
_VERSION_FILE = re.compile(r"([0-9]{8})\.json")

M = TypeVar("M", bound=Manifest)

Expected = Callable[[str | None], bool]
"""Says, given the digest of a name's latest version (None: there is none), whether to write."""


def whatever(_: str | None) -> bool:
    """Expect nothing: an `Expected` that is always met."""
    return True


class Entry(BaseModel, Generic[M]):
    """One number of a series.

    Attributes:
        since: The number of the last deletion before this entry, 0 if there was none; versions up
            to it are gone.
        manifest: The version, None if this entry marks a deletion.
        deleted_at: When that deletion happened.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    since: int
    manifest: M | None = None
    deleted_at: datetime | None = None


@dataclass(frozen=True)
class _Tail(Generic[M]):
    number: int
    since: int
    manifest: M | None


class VersionSeries(Generic[M]):
    """The versions of every name below one root of an object store.

    Args:
        objects: Where the documents are kept.
        root: Such as `prompts`.
        entry_model: Such as `Entry[PromptManifest]`.
    """

    def __init__(self, objects: ObjectStore, root: str, entry_model: type[Entry[M]]) -> None:
        self._objects = objects
        self._root = root
        self._entry_model = entry_model

    def check(self, name: str, expected: Expected) -> None:
        """Look whether a name stands as a writer expects it to, before there is much to write.

        Raises:
            PreconditionFailedError: It does not.
        """
        self._check(name, self._tail(name), expected)

    def create(
        self, name: str, digest: str, build: Callable[[int], M], expected: Expected = whatever
    ) -> tuple[M, bool]:
        """Create the next version, unless a living one has this digest already.

        Args:
            name: The name to create it under.
            digest: What the new manifest's digest will be.
            build: Makes the manifest for a version number; called again when a race is lost.
            expected: The condition; judged again whenever another writer was faster.

        Returns:
            The manifest, and whether this call created it.

        Raises:
            PreconditionFailedError: The name does not stand as expected; nothing was written.
            ConflictError: Other writers took 1000 numbers in a row.
            StoreFullError, StoreUnavailableError: Nothing was acknowledged.
        """
        for _ in range(_MAX_LOST_RACES):
            # The tail is read before the digest is looked up: a twin that creates the number after
            # this tail makes our own creation fail, one that came earlier is found.
            tail = self._tail(name)
            self._check(name, tail, expected)
            existing = self._find_in(name, digest, tail.since, [])
            if existing is not None:
                # Its writer may have been killed before it could make sure of this.
                self._objects.sync(self._key(name, existing.version))
                return existing, False
            manifest = build(check_version(tail.number + 1))
            self._objects.put_new(self._index_key(digest, name, manifest.version), b"")
            entry = self._entry_model(since=tail.since, manifest=manifest)
            if put_document(self._objects, self._key(name, manifest.version), entry):
                return manifest, True
        raise self._starved(name)

    def delete(self, name: str, deleted_at: datetime, expected: Expected = whatever) -> None:
        """Mark everything under `name` as deleted; its content stays for those who refer to it.

        Raises:
            NotFoundError: There is nothing under this name.
            PreconditionFailedError: The name does not stand as expected; nothing was written.
            ConflictError: Other writers took 1000 numbers in a row.
        """
        for _ in range(_MAX_LOST_RACES):
            tail = self._living_tail(name)
            self._check(name, tail, expected)
            number = tail.number + 1
            entry = self._entry_model(since=number, deleted_at=deleted_at)
            if put_document(self._objects, self._key(name, number), entry):
                return
        raise self._starved(name)

    def get(self, name: str, version: int | None = None) -> M:
        """Return a version, the latest one by default.

        Raises:
            NotFoundError: There is none, or it has been deleted.
            NameInvalidError: The name or the version is malformed.
            CorruptDocumentError: It is damaged, or the latest one is, which may be a deletion.
        """
        tail = self._living_tail(name)
        if version is None and tail.manifest is not None:
            return tail.manifest
        number = tail.number if version is None else check_version(version)
        manifest = self._entry(name, number).manifest if number > tail.since else None
        if manifest is None:
            raise NotFoundError(f"{name}@{number} in {self._root} has been deleted")
        return manifest

    def versions(self, name: str, *, after: int = 0, limit: int = 100) -> Page[M]:
        """Return the living versions above `after`, oldest first, at most `limit` (>= 1).

        Damaged ones are left out and logged.

        Raises:
            NotFoundError: The name is unknown, or was deleted.
            CorruptDocumentError: The latest version is damaged, and may be a deletion.
        """
        written = self._numbers(check_name(name))
        first = max(self._living(name, self._tail_of(name, written)).since, after) + 1
        numbers = [number for number in written if number >= first]
        found = (
            self._readable(name, partial(self._entry, name, number)) for number in numbers[:limit]
        )
        items = tuple(manifest for manifest in found if manifest is not None)
        return Page(items=items, next_cursor=next_number(numbers, limit))

    def page(self, cursor: str | None, limit: int, keep: Callable[[M], bool]) -> Page[M]:
        """Return the latest version of each name that `keep` accepts, in order of names.

        A name whose latest version is damaged is left out and logged.

        Args:
            cursor: `next_cursor` of the page before, None for the first page.
            limit: At most so many items, at least 1.
            keep: Says which latest versions are wanted.
        """
        items: list[M] = []
        for manifest in self._latest_after("" if cursor is None else check_name(cursor)):
            if not keep(manifest):
                continue
            if len(items) == limit:
                return Page(items=tuple(items), next_cursor=items[-1].name)
            items.append(manifest)
        return Page(items=tuple(items), next_cursor=None)

    def resolve(self, reference: str) -> M:
        """Return what `name`, `name@3` or `sha256:<hex>` stands for now.

        Several names may have one digest: the first name's earliest version that can be read
        answers for it.

        Raises:
            NotFoundError: Nothing, or it has been deleted.
            NameInvalidError: The reference has none of these forms.
            CorruptDocumentError: It is damaged; a digest, only if no whole version has it.
        """
        parsed = parse_reference(reference)
        if isinstance(parsed, AliasReference):
            raise NameInvalidError(f"{parsed}: there are no aliases in {self._root}")
        if isinstance(parsed, NameReference):
            return self.get(parsed.name, parsed.version)
        return self._find(parsed.digest)

    def _find(self, digest: str) -> M:
        damage: list[CorruptDocumentError] = []
        for name in self._objects.children(self._index_folder(digest)):
            try:
                since = self._tail(name).since
            except CorruptDocumentError as error:
                damage.append(error)
                self._log(name, error)
                continue
            manifest = self._find_in(name, digest, since, damage)
            if manifest is not None:
                return manifest
        if damage:
            raise damage[0]
        raise NotFoundError(f"there is nothing in {self._root} with digest {digest}")

    def _latest_after(self, cursor: str) -> Iterator[M]:
        for name in self._objects.children(self._root):
            manifest = self._readable(name, partial(self._tail, name)) if name > cursor else None
            if manifest is not None:
                yield manifest

    def _readable(self, name: str, read: Callable[[], Entry[M] | _Tail[M]]) -> M | None:
        """What a list shows of a name, or of one of its numbers; None for a deletion or damage."""
        try:
            return read().manifest
        except CorruptDocumentError as error:
            self._log(name, error)
            return None

    def _log(self, name: str, error: CorruptDocumentError) -> None:
        logger.error("left out: %s", error, extra={"root": self._root, "entry": name})

    def _find_in(
        self, name: str, digest: str, since: int, damage: list[CorruptDocumentError]
    ) -> M | None:
        """The first whole version of a name after `since` with a digest; adds to `damage`."""
        prefix = f"{self._index_folder(digest)}/{name}"
        for number in (int(key.rpartition("/")[2]) for key in self._objects.list(prefix)):
            try:
                manifest = self._entry(name, number).manifest if number > since else None
            except NotFoundError:  # its writer was killed, or has not come to it yet
                continue
            except CorruptDocumentError as error:
                damage.append(error)
                self._log(name, error)
                continue
            if manifest is not None and manifest.digest == digest:
                return manifest
        return None

    def _tail(self, name: str) -> _Tail[M]:
        return self._tail_of(name, self._numbers(name))

    def _tail_of(self, name: str, numbers: list[int]) -> _Tail[M]:
        if not numbers:
            return _Tail(0, 0, None)
        entry = self._entry(name, numbers[-1])
        return _Tail(numbers[-1], entry.since, entry.manifest)

    def _living_tail(self, name: str) -> _Tail[M]:
        return self._living(name, self._tail(check_name(name)))

    def _living(self, name: str, tail: _Tail[M]) -> _Tail[M]:
        if tail.manifest is None:
            state = "has been deleted from" if tail.number else "is not in"
            raise NotFoundError(f"{name} {state} {self._root}")
        return tail

    def _check(self, name: str, tail: _Tail[M], expected: Expected) -> None:
        current = None if tail.manifest is None else tail.manifest.digest
        if not expected(current):
            state = f"is {current}" if current else "does not exist"
            raise PreconditionFailedError(f"{name} in {self._root} {state}", current=current)

    def _numbers(self, name: str) -> list[int]:
        keys = self._objects.list(f"{self._root}/{name}/versions")
        matches = (_VERSION_FILE.fullmatch(key.rpartition("/")[2]) for key in keys)
        return [int(match[1]) for match in matches if match]

    def _entry(self, name: str, number: int) -> Entry[M]:
        try:
            return get_document(self._objects, self._key(name, number), self._entry_model)
        except NotFoundError as error:
            raise NotFoundError(f"{name}@{number} is not in {self._root}") from error
        except CorruptDocumentError as error:
            raise CorruptDocumentError(
                f"the manifest of {name}@{number} in {self._root} is damaged: {error}"
            ) from error

    def _key(self, name: str, number: int) -> str:
        return f"{self._root}/{name}/versions/{number:08d}.json"

    def _index_folder(self, digest: str) -> str:
        return f"{self._root}-by-digest/{digest.removeprefix('sha256:')}"

    def _index_key(self, digest: str, name: str, number: int) -> str:
        return f"{self._index_folder(digest)}/{name}/{number:08d}"

    def _starved(self, name: str) -> ConflictError:
        return ConflictError(
            f"{name} in {self._root}: other writers took {_MAX_LOST_RACES} versions in a row"
        )
