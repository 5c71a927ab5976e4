"""The model repository: every ensemble version, and whether it can be used."""

from collections.abc import Iterator
from typing import Any

from jobs.catalogue import EnsembleCatalogue
from jobs.records import FitId

_PAGE = 1000


def repository_index(catalogue: EnsembleCatalogue, *, ready_only: bool) -> list[dict[str, Any]]:
    """Return every version with its state, by name; reads the store once a version.

    Args:
        catalogue: The durable fits.
        ready_only: Leave out those that cannot be used.
    """
    entries = [_entry(catalogue, fit_id) for fit_id in _every(catalogue)]
    return [each for each in entries if each["state"] == "READY" or not ready_only]


def _every(catalogue: EnsembleCatalogue) -> Iterator[FitId]:
    names = catalogue.names(limit=_PAGE)
    while names:
        for name in names:
            yield from (FitId(name, version) for version in catalogue.versions(name))
        names = catalogue.names(start_after=names[-1], limit=_PAGE)


def _entry(catalogue: EnsembleCatalogue, fit_id: FitId) -> dict[str, Any]:
    outcome = catalogue.outcome(fit_id)
    status = "unfinished" if outcome is None else outcome.status
    return {
        "name": fit_id.name,
        "version": str(fit_id.version),
        "state": "READY" if status == "succeeded" else "UNAVAILABLE",
        "reason": "" if status == "succeeded" else f"the fit is {status}",
    }
