"""The numbers of each ensemble: one for every request, and one for every deletion of the name.

They count from 1 without gaps, and what a number holds never changes: of those who want it at the
same moment, whoever creates its document first has it. So a deletion and a request that come at
once are in an order, and each document can tell what was deleted before it.
"""

import logging
import threading
from dataclasses import dataclass

from pydantic import RootModel

from jobs import store_keys as keys
from jobs.errors import FitNotFoundError
from jobs.records import Deletion, FitId, FitRequest
from prompt_store.documents import get_document
from prompt_store.errors import CorruptDocumentError, NotFoundError, UnknownDocumentError
from prompt_store.numbering import last_number
from prompt_store.objects import ObjectStore

logger = logging.getLogger(__name__)

MAX_REMEMBERED = 100_000


class _Entry(RootModel[FitRequest | Deletion]):
    """What a number holds."""


@dataclass(frozen=True)
class Tail:
    """The end of an ensemble's numbers.

    Attributes:
        number: The last one; 0 if the name has never been used.
        since: That of the last deletion, 0 if there was none; versions up to it are gone.
    """

    number: int
    since: int

    @property
    def living(self) -> range:
        """The versions that have not been deleted, ascending."""
        return range(self.since + 1, self.number + 1)


class VersionNumbers:
    """The numbers of every ensemble. Safe to share between threads.

    Remembers the last number of so many names, so that looking whether a version lives costs one
    look while nothing was asked for under its name.

    Args:
        objects: The deployment's object store.
    """

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects
        self._remembered: dict[str, Tail] = {}
        self._lock = threading.Lock()

    def entry(self, fit_id: FitId) -> FitRequest | Deletion:
        """What a number holds.

        Raises:
            FitNotFoundError: Nothing.
            CorruptDocumentError: It is damaged; the message names the version.
            UnknownDocumentError: It is not understood; a newer version of the service may have
                written it.
        """
        try:
            return get_document(self._objects, keys.request_key(fit_id), _Entry).root
        except NotFoundError as error:
            raise FitNotFoundError(f"there is no ensemble version {fit_id}") from error
        except UnknownDocumentError as error:
            raise UnknownDocumentError(
                f"the record of ensemble version {fit_id} is damaged or too new: {error}"
            ) from error
        except CorruptDocumentError as error:
            raise CorruptDocumentError(
                f"the record of ensemble version {fit_id} is damaged: {error}"
            ) from error

    def exists(self, fit_id: FitId) -> bool:
        """Whether the number holds anything."""
        return self._objects.size(keys.request_key(fit_id)) is not None

    def tail(self, name: str) -> Tail:
        """The end of the numbers, by the names of the folders of the ensemble's versions.

        The folder of a writer that was killed, or has not come to it yet, holds no request.
        """
        for folder in reversed(self._objects.children(keys.versions_folder(name))):
            if keys.is_version_folder(folder) and self.exists(FitId(name, int(folder))):
                return self.tail_at(FitId(name, int(folder)))
        return Tail(0, 0)

    def settled_tail(self, name: str) -> Tail:
        """The end of the numbers, on the disk: whoever takes the next one leaves no gap before it.

        The writer of the last one may not have come to make sure of that, or may have been killed.
        """
        tail = self.tail(name)
        if tail.number:
            self._objects.sync(keys.request_key(FitId(name, tail.number)))
        return tail

    def deleted(self, fit_id: FitId) -> bool:
        """Whether a version that was asked for has been deleted, or is a deletion itself.

        Raises:
            FitNotFoundError: There has never been such a version.
        """
        known = self._remembered.get(fit_id.name, Tail(0, 0))
        last = self._last_from(fit_id.name, max(fit_id.version, known.number))
        return self.tail_at(last).since >= fit_id.version

    def tail_at(self, last: FitId) -> Tail:
        """The end of the numbers, where the last one is known.

        Raises:
            CorruptDocumentError: The last one cannot be read, and may be a deletion.
        """
        known = self._remembered.get(last.name)
        if known is not None and known.number == last.version:
            return known
        tail = Tail(last.version, self._since(last))
        with self._lock:
            self._remembered.pop(last.name, None)
            self._remembered[last.name] = tail
            if len(self._remembered) > MAX_REMEMBERED:
                del self._remembered[next(iter(self._remembered))]
        return tail

    def _since(self, fit_id: FitId) -> int:
        """The number of the last deletion up to this one.

        A damaged request tells it no longer, but the number before does. That it is no deletion is
        certain once it has been claimed or has ended, which nothing else can be.
        """
        try:
            return self.entry(fit_id).since
        except CorruptDocumentError as error:
            if len(self._objects.list(keys.fit_folder(fit_id))) == 1:
                raise
            logger.error("%s", error, extra={"fit": str(fit_id)})  # noqa: TRY400
        before = fit_id.version - 1
        return self._since(FitId(fit_id.name, before)) if before else 0

    def _last_from(self, name: str, start: int) -> FitId:
        """The last number from one that exists, or 0: one look if it is the last."""
        return FitId(name, last_number(lambda number: self.exists(FitId(name, number)), start))
