"""Reading the durable side of fits from the object store."""

import itertools
import json
import logging
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

from jobs import store_keys as keys
from jobs.errors import EnsembleDeletedError, FitIdError, FitNotFoundError
from jobs.records import (
    Deletion,
    EnsembleRecord,
    FitAttempt,
    FitId,
    FitOutcome,
    FitRequest,
    FitState,
)
from jobs.version_numbers import Tail, VersionNumbers
from prompt_store.blobs import BlobStore
from prompt_store.documents import get_document
from prompt_store.errors import CorruptDocumentError, NotFoundError
from prompt_store.names import NAME_PATTERN
from prompt_store.objects import ObjectStore

logger = logging.getLogger(__name__)


class EnsembleCatalogue:
    """Every fit of a deployment, read-only. Synchronous; safe to share between threads.

    Args:
        objects: The deployment's object store.
        blobs: The same store's blobs.
    """

    def __init__(self, objects: ObjectStore, blobs: BlobStore) -> None:
        self._objects = objects
        self._blobs = blobs
        self._numbers = VersionNumbers(objects)

    def request(self, fit_id: FitId) -> FitRequest:
        """The acknowledged request, also of a version that has been deleted since.

        Raises:
            FitNotFoundError: There is no such fit.
            CorruptDocumentError: It is damaged.
            UnknownDocumentError: It is not understood.
        """
        entry = self._numbers.entry(fit_id)
        if isinstance(entry, Deletion):
            raise _deleted(fit_id)
        return entry

    def request_with(self, name: str, idempotency_digest: str) -> FitRequest | None:
        """The ensemble's request that came with an idempotency key, also if deleted since.

        Raises:
            CorruptDocumentError: The one that a mark points to is damaged, and may be it.
        """
        for fit_id in self._marked(keys.idempotency_folder(idempotency_digest)):
            request = self._marked_request(fit_id) if fit_id.name == name else None
            if request is not None and request.idempotency_digest == idempotency_digest:
                # Its writer may have been killed before it could make sure of this.
                self._objects.sync(keys.request_key(fit_id))
                return request
        return None

    def check_living(self, fit_id: FitId) -> None:
        """Make sure that a version has not been deleted; one look while its name has no later one.

        Raises:
            FitNotFoundError: There has never been such a fit.
            EnsembleDeletedError: It has been deleted.
        """
        if self._numbers.deleted(fit_id):
            raise _deleted(fit_id)

    def outcome(self, fit_id: FitId) -> FitOutcome | None:
        """The end of the fit, or None while it has not ended."""
        try:
            return get_document(self._objects, keys.outcome_key(fit_id), FitOutcome)
        except NotFoundError:
            return None

    def ended(self, fit_id: FitId) -> bool:
        """Whether the fit has an outcome."""
        return self._exists(keys.outcome_key(fit_id))

    def attempt(self, fit_id: FitId, attempt: int) -> FitAttempt | None:
        """One claim of the fit, or None if there was none of that number."""
        try:
            return get_document(self._objects, keys.attempt_key(fit_id, attempt), FitAttempt)
        except NotFoundError:
            return None

    def result(self, outcome: FitOutcome) -> dict[str, Any] | None:
        """The result document of an outcome; None unless the fit succeeded."""
        if outcome.result_digest is None:
            return None
        return json.loads(self._blobs.get_bytes(outcome.result_digest))

    def state(self, fit_id: FitId) -> FitState:
        """The durable facts, by one listing of the fit's folder.

        Raises:
            FitNotFoundError: There is no such fit.
        """
        names = self._keys_below(keys.fit_folder(fit_id))
        if "request.json" not in names:
            raise FitNotFoundError(f"there is no ensemble version {fit_id}")
        return FitState(
            attempt=max(_numbers(names, "attempts"), default=0),
            released=_numbers(names, "releases"),
            ended="outcome.json" in names,
        )

    def versions(self, name: str) -> tuple[int, ...]:
        """Every living version, ascending; empty if the name is unknown or was deleted."""
        return tuple(self._numbers.tail(name).living)

    def latest_succeeded(self, name: str, *, known: FitId | None = None) -> FitId | None:
        """The newest version that succeeded, which is the one that serves; None if none has.

        A version whose outcome is damaged is passed over and logged.

        Args:
            name: The ensemble.
            known: A version that was the answer once. If nothing was asked for since, this costs
                one look, and two more for each later version, one of which is read once.
        """
        versions = self.versions(name) if known is None else self._versions_after(known)
        if known is not None and versions:
            since = self._numbers.tail_at(FitId(name, versions[-1])).since
            if since >= known.version:
                return self.latest_succeeded(name)
        fit_ids = (FitId(name, version) for version in reversed(versions))
        return next(filter(self._succeeded, fit_ids), known)

    def current(self, name: str, *, known: FitId | None = None) -> FitId:
        """What the bare name means: the newest version that succeeded, else the newest.

        Args:
            name: The ensemble.
            known: As for `latest_succeeded`.

        Raises:
            FitNotFoundError: The name is unknown.
            EnsembleDeletedError: It was deleted.
        """
        return self.latest_succeeded(name, known=known) or self.newest(name)

    def currents(self, *, start_after: str | None = None) -> Iterator[FitId]:
        """What each name that was not deleted means, in order of names, after `start_after`.

        A name of which that cannot be told, because a document is damaged, is left out and logged.
        """
        for name in self.names(start_after=start_after, limit=None):
            try:
                current = self.current(name)
            except FitNotFoundError:
                continue  # deleted, or from a crash between the mark of the name and the request
            except CorruptDocumentError as error:
                logger.error("left out: %s", error, extra={"ensemble": name})  # noqa: TRY400
                continue
            yield current

    def newest(self, name: str) -> FitId:
        """The newest version, whatever became of it; raises as `current`."""
        return FitId(name, self.living(name)[-1])

    def living(self, name: str) -> range:
        """As `versions`, but raises as `current` if there is none."""
        return self._living_tail(name, self._numbers.tail(name)).living

    def record(self, fit_id: FitId, *, with_result: bool = False) -> EnsembleRecord:
        """The request and what became of it, as far as the store can tell.

        Raises:
            FitNotFoundError: There is no such fit.
            EnsembleDeletedError: It has been deleted.
            CorruptDocumentError: The request or the outcome is damaged.
        """
        self.check_living(fit_id)
        request, state = self.request(fit_id), self.state(fit_id)
        outcome = self.outcome(fit_id)
        unfinished = "running" if state.held else "queued"
        return EnsembleRecord(
            **request.fields(),
            status=outcome.status if outcome else unfinished,
            attempt=state.attempt,
            digest=outcome.artifact_digest if outcome else None,
            outcome=outcome,
            result=self.result(outcome) if outcome and with_result else None,
        )

    def names(self, *, start_after: str | None = None, limit: int | None = 100) -> list[str]:
        """Names ever used, in order, after `start_after`, at most `limit`; deleted ones too."""
        after = "" if start_after is None else keys.name_key(start_after)
        found = self._objects.list(keys.NAMES_FOLDER, start_after=after)
        names = [key.rpartition("/")[2] for key in found]
        return [name for name in names if re.fullmatch(NAME_PATTERN, name)][:limit]

    def unfinished(self) -> Iterator[FitId]:
        """Every fit that has no outcome; marks that point at no such fit are cleared on the way."""
        for fit_id in self._marked(keys.OPEN_FOLDER):
            if self.ended(fit_id) or self._is_deletion(fit_id):
                self._objects.delete(keys.open_key(fit_id))
            elif self._numbers.exists(fit_id):
                yield fit_id

    def dependents(self, prompt: str) -> tuple[FitId, ...]:
        """Living fits that depend on the prompt and have succeeded or may yet succeed."""
        marked = sorted(self._marked(keys.prompt_folder(prompt)))
        return tuple(fit_id for fit_id in marked if self._reads(fit_id, prompt))

    def _versions_after(self, fit_id: FitId) -> tuple[int, ...]:
        """Later versions, ascending: numbers have no gaps, so the first one missing ends them."""
        following = (FitId(fit_id.name, n) for n in itertools.count(fit_id.version + 1))
        later = itertools.takewhile(self._numbers.exists, following)
        return tuple(each.version for each in later)

    def _living_tail(self, name: str, tail: Tail) -> Tail:
        """The end of the name's numbers, if something lives; raises as `current`."""
        if not tail.number:
            raise FitNotFoundError(f"there is no ensemble {name!r}")
        if not tail.living:
            raise EnsembleDeletedError(f"ensemble {name!r} has been deleted")
        return tail

    def _succeeded(self, fit_id: FitId) -> bool:
        try:
            outcome = self.outcome(fit_id)
        except CorruptDocumentError as error:
            logger.error("passed over: %s", error, extra={"fit": str(fit_id)})  # noqa: TRY400
            return False
        return outcome is not None and outcome.status == "succeeded"

    def _is_deletion(self, fit_id: FitId) -> bool:
        """Whether a request lost its number to a deletion; False if that cannot be told."""
        try:
            return isinstance(self._numbers.entry(fit_id), Deletion)
        except (FitNotFoundError, CorruptDocumentError):
            return False

    def _reads(self, fit_id: FitId, prompt: str) -> bool:
        """Whether the fit lives, depends on the prompt, and has not ended without an artifact.

        Of a damaged one all that is known is that a mark said so.
        """
        try:
            self.check_living(fit_id)
            if prompt not in self.request(fit_id).prompts:
                return False
            outcome = self.outcome(fit_id)
        except FitNotFoundError:
            return False
        except CorruptDocumentError as error:
            logger.error("taken to need %s: %s", prompt, error)  # noqa: TRY400
            return True
        return outcome is None or outcome.status == "succeeded"

    def _marked(self, folder: str) -> list[FitId]:
        """The fits that a folder has marks of; files with other names are no marks."""
        found: list[FitId] = []
        for key in self._keys_below(folder):
            with suppress(FitIdError):
                found.append(FitId.parse(key))
        return found

    def _marked_request(self, fit_id: FitId) -> FitRequest | None:
        """The request that a mark points to; None if another one or none has its number."""
        try:
            return self.request(fit_id)
        except FitNotFoundError:
            return None

    def _exists(self, key: str) -> bool:
        return self._objects.size(key) is not None

    def _keys_below(self, folder: str) -> list[str]:
        """Keys below a folder, without the folder."""
        return [key.removeprefix(f"{folder}/") for key in self._objects.list(folder)]


def _deleted(fit_id: FitId) -> EnsembleDeletedError:
    return EnsembleDeletedError(f"ensemble version {fit_id} has been deleted")


def _numbers(names: Iterable[str], folder: str) -> frozenset[int]:
    """The numbers of the documents in one folder of a fit."""
    matches = (re.fullmatch(rf"{folder}/([0-9]+)\.json", name) for name in names)
    return frozenset(int(match[1]) for match in matches if match)
