"""Which prompt shapes a service will be asked for."""

import logging
import time
from collections.abc import Callable

from jobs.ensembles import EnsembleStore
from jobs.errors import FitNotFoundError
from prompt_store.artifacts import Artifact, read_artifact
from prompt_store.blobs import BlobStore
from prompt_store.errors import PromptStoreError
from service.inference.bank import NO_PROMPT, PromptShape

logger = logging.getLogger(__name__)

MAX_ENSEMBLES = 32
"""Of those that can be served."""

MAX_SECONDS = 10.0


def known_prompt_shapes(
    ensembles: EnsembleStore,
    blobs: BlobStore,
    backbone_digest: str,
    *,
    clock: Callable[[], float] = time.monotonic,
) -> set[PromptShape]:
    """Return the prompt shapes of some ensembles that can be served by a backbone.

    A deployment has few shapes, so a few ensembles tell. A store that is down, or slow, does not
    keep the service from starting, and neither does an ensemble that is damaged or was made for
    another backbone.
    """
    shapes: set[PromptShape] = set()
    num_found = 0
    until_s = clock() + MAX_SECONDS
    try:
        names = ensembles.names(limit=None)
    except PromptStoreError:
        logger.warning("the prompt shapes to warm up with are not known", exc_info=True)
        return shapes
    for name in names:
        try:
            artifact = _serving(ensembles, blobs, name)
        except (PromptStoreError, FitNotFoundError) as error:
            logger.warning("a prompt shape to warm up with is not known: %s", error)
            artifact = None
        if artifact is not None and artifact.backbone_digest == backbone_digest:
            shapes.add(_shape(artifact))
            num_found += 1
        if num_found == MAX_ENSEMBLES or clock() > until_s:
            break
    return shapes


def _serving(ensembles: EnsembleStore, blobs: BlobStore, name: str) -> Artifact | None:
    """The artifact that serves under a name; None if there is none."""
    fit_id = ensembles.latest_succeeded(name)
    outcome = None if fit_id is None else ensembles.outcome(fit_id)
    if outcome is None or outcome.artifact_digest is None:
        return None
    return read_artifact(blobs.get_bytes(outcome.artifact_digest))


def _shape(artifact: Artifact) -> PromptShape:
    prompt = artifact.prompt_embeddings  # (L, P, D)
    return (prompt.shape[0], prompt.shape[1]) if prompt.size else NO_PROMPT
