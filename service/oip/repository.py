"""The model repository: every ensemble version, and whether it can be used."""

import logging
from collections.abc import Iterator
from typing import Any

from jobs.catalogue import EnsembleCatalogue
from jobs.records import FitId, OutcomeStatus
from prompt_store.errors import CorruptDocumentError

logger = logging.getLogger(__name__)

_PAGE = 1000


class RepositoryIndex:
    """The state of every version; how a fit ended never changes, so that it is read only once.

    The first index reads the store once a version. A later one lists each ensemble's folder, and
    reads only what is new or had not ended. Safe to use from several threads.

    Args:
        catalogue: The durable fits.
    """

    def __init__(self, catalogue: EnsembleCatalogue) -> None:
        self._catalogue = catalogue
        self._ends: dict[str, dict[int, OutcomeStatus]] = {}

    def entries(self, *, ready_only: bool = False) -> list[dict[str, Any]]:
        """Return every version with its state, by name.

        A name of which that cannot be told, because a document is damaged, is left out and logged.

        Args:
            ready_only: Leave out those that cannot be used.
        """
        return [
            _entry(FitId(name, version), end)
            for name in self._names()
            for version, end in self._readable_versions(name)
            if end == "succeeded" or not ready_only
        ]

    def ready(self, name: str) -> tuple[int, ...]:
        """Return the versions of an ensemble that can be used, ascending."""
        return tuple(version for version, end in self._versions(name) if end == "succeeded")

    def _names(self) -> Iterator[str]:
        names = self._catalogue.names(limit=_PAGE)
        yield from names
        while len(names) == _PAGE:
            names = self._catalogue.names(start_after=names[-1], limit=_PAGE)
            yield from names

    def _readable_versions(self, name: str) -> list[tuple[int, OutcomeStatus | None]]:
        try:
            return self._versions(name)
        except CorruptDocumentError as error:
            logger.error("left out: %s", error, extra={"ensemble": name})  # noqa: TRY400
            return []

    def _versions(self, name: str) -> list[tuple[int, OutcomeStatus | None]]:
        """Versions, ascending, and how each one ended; None if it has not."""
        known = self._ends.get(name, {})
        found: list[tuple[int, OutcomeStatus | None]] = [
            (version, known.get(version) or self._end(FitId(name, version)))
            for version in self._catalogue.versions(name)
        ]
        ends: dict[int, OutcomeStatus] = {v: end for v, end in found if end is not None}
        if ends:
            self._ends[name] = ends
        else:
            self._ends.pop(name, None)
        return found

    def _end(self, fit_id: FitId) -> OutcomeStatus | None:
        outcome = self._catalogue.outcome(fit_id)
        return None if outcome is None else outcome.status


def _entry(fit_id: FitId, end: OutcomeStatus | None) -> dict[str, Any]:
    return {
        "name": fit_id.name,
        "version": str(fit_id.version),
        "state": "READY" if end == "succeeded" else "UNAVAILABLE",
        "reason": "" if end == "succeeded" else f"the fit is {end or 'unfinished'}",
    }
