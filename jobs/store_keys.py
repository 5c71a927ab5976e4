"""Where fits lie in the object store. Everything but the open marks is created once and kept.

Below `ensembles/<name>/versions/<%08d>/`, one folder per fit:

    request.json            the acknowledged request; or that the versions before are deleted
    attempts/<%04d>.json    one per claim; the number is the fence
    releases/<%04d>.json    that attempt was handed back: it was not lost to a crash
    outcome.json            the one end: success, failure, cancellation or death

Versions count from 1 without gaps, deletions of the name among them (`jobs.version_numbers`).
Beside `versions`, `aliases` holds what `prompt_store.aliases` keeps there.

Marks, each written before the request that it points to, so that no request lacks its marks (a
mark without its request comes from a crash in between, or from losing the number to another
request or a deletion, and is ignored):

    ensembles-open/<name>@<version>                 perhaps unfinished; deleted after the outcome
    ensembles-by-name/<name>                        the name has been used
    ensembles-by-key/<hash>/<name>@<version>        the request came with the idempotency key of
                                                    this SHA-256
    ensembles-by-prompt/<prompt>/<name>@<version>   the fit depends on the prompt (older marks of
                                                    fits that use no source do not count)
"""

import re

from jobs.records import FitId

ENSEMBLES_FOLDER = "ensembles"
OPEN_FOLDER = "ensembles-open"
NAMES_FOLDER = "ensembles-by-name"


def versions_folder(name: str) -> str:
    """Every version of one ensemble."""
    return f"{ENSEMBLES_FOLDER}/{name}/versions"


def is_version_folder(name: str) -> bool:
    """Whether a folder below `versions_folder` is that of a version: others are not ours."""
    return re.fullmatch("[0-9]{8}", name) is not None


def fit_folder(fit_id: FitId) -> str:
    """One fit."""
    return f"{versions_folder(fit_id.name)}/{fit_id.version:08d}"


def request_key(fit_id: FitId) -> str:
    """The acknowledged request, or the mark of a deletion."""
    return f"{fit_folder(fit_id)}/request.json"


def outcome_key(fit_id: FitId) -> str:
    """The one end."""
    return f"{fit_folder(fit_id)}/outcome.json"


def attempt_key(fit_id: FitId, attempt: int) -> str:
    """One claim."""
    return f"{fit_folder(fit_id)}/attempts/{attempt:04d}.json"


def release_key(fit_id: FitId, attempt: int) -> str:
    """One claim handed back."""
    return f"{fit_folder(fit_id)}/releases/{attempt:04d}.json"


def open_key(fit_id: FitId) -> str:
    """Mark that the fit may be unfinished."""
    return f"{OPEN_FOLDER}/{fit_id}"


def name_key(name: str) -> str:
    """Mark that the name has been used."""
    return f"{NAMES_FOLDER}/{name}"


def idempotency_folder(idempotency_digest: str) -> str:
    """Marks of every request that came with an idempotency key."""
    return f"ensembles-by-key/{idempotency_digest.removeprefix('sha256:')}"


def idempotency_key(idempotency_digest: str, fit_id: FitId) -> str:
    """Mark that the request came with an idempotency key."""
    return f"{idempotency_folder(idempotency_digest)}/{fit_id}"


def prompt_folder(prompt: str) -> str:
    """Marks of every fit that reads a version of the prompt."""
    return f"ensembles-by-prompt/{prompt}"


def prompt_key(prompt: str, fit_id: FitId) -> str:
    """Mark that the fit reads a version of the prompt."""
    return f"{prompt_folder(prompt)}/{fit_id}"
