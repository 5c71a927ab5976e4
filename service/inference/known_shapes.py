"""Which prompt shapes a service will be asked for."""

import logging
import time
from collections.abc import Callable

from jobs.ensembles import EnsembleStore
from prompt_store.artifacts import Artifact, read_artifact
from prompt_store.blobs import BlobStore
from prompt_store.errors import PromptStoreError
from service.inference.bank import NO_PROMPT, PromptShape

logger = logging.getLogger(__name__)

MAX_ENSEMBLES = 32
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
    keep the service from starting, and neither does an ensemble made for another backbone.
    """
    shapes: set[PromptShape] = set()
    until_s = clock() + MAX_SECONDS
    try:
        for name in ensembles.names(limit=MAX_ENSEMBLES):
            fit_id = ensembles.latest_succeeded(name)
            outcome = None if fit_id is None else ensembles.outcome(fit_id)
            if outcome is not None and outcome.artifact_digest is not None:
                artifact = read_artifact(blobs.get_bytes(outcome.artifact_digest))
                if artifact.backbone_digest == backbone_digest:
                    shapes.add(_shape(artifact))
            if clock() > until_s:
                break
    except PromptStoreError:
        logger.warning("the prompt shapes to warm up with are not known", exc_info=True)
    return shapes


def _shape(artifact: Artifact) -> PromptShape:
    prompt = artifact.prompt_embeddings  # (L, P, D)
    return (prompt.shape[0], prompt.shape[1]) if prompt.size else NO_PROMPT
