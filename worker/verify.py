"""`hgprompt verify`: recompute a published composite prompt from its sources and weights."""

import argparse
import sys
from collections.abc import Sequence

import torch

from configuration.environment import SettingsError
from ensemble.composition import align_tokens, compose, composite_digest, stack_prompts
from ensemble.errors import EnsembleError
from jobs.ensembles import EnsembleStore
from jobs.errors import JobsError
from jobs.records import FitId
from jobs.settings import DeploymentSettings
from prompt_store.artifacts import Artifact, read_artifact
from prompt_store.blobs import BlobStore
from prompt_store.clock import utc_now
from prompt_store.errors import PromptStoreError
from prompt_store.objects import open_object_store
from worker.stored_prompts import stored_prompt

EPILOG = (
    "The ensemble is read from the store, not over HTTP: with --data-dir from that of "
    "`hgprompt up --data-dir`, else from HGPROMPT_STORE_URL, else from that of `hgprompt up`."
)


def recomputed_digest(artifact: Artifact, blobs: BlobStore) -> str:
    """Return the digest of the composite made anew from the stored sources and weights.

    Raises:
        NotFoundError, DigestMismatchError: A source is gone or damaged.
        ShapeError: The sources do not fit each other.
    """
    if not artifact.sources:
        return composite_digest(torch.zeros(1, 0, artifact.prompt_embeddings.shape[-1]))
    prompts = stack_prompts([stored_prompt(blobs, source.digest) for source in artifact.sources])
    if artifact.metadata.get("align") == "true":
        prompts = align_tokens(prompts)
    return composite_digest(compose(prompts, torch.from_numpy(artifact.weights)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare digests; 0 if they agree, 1 if not or if the ensemble cannot be read."""
    parser = argparse.ArgumentParser(
        prog="hgprompt verify",
        usage="hgprompt verify [-h] [--data-dir DIR] NAME@VERSION",
        description="Recompute a published composite prompt from its sources and weights. Exit "
        "status 0 if the digests agree, 1 if not.",
        epilog=EPILOG,
    )
    parser.add_argument("ensemble", metavar="NAME@VERSION", help="version of an ensemble")
    ensemble = parser.parse_args(arguments).ensemble
    try:
        deployment = DeploymentSettings.read()
        objects = open_object_store(deployment.store_url)
        blobs = BlobStore(objects)
        store = EnsembleStore(objects, blobs, utc_now, max_attempts=deployment.max_attempts)
        outcome = store.outcome(FitId.parse(ensemble))
        if outcome is None or outcome.artifact_digest is None:
            where = deployment.store_url
            sys.stderr.write(f"{ensemble} has no published artifact in {where}\n")
            return 1
        artifact = read_artifact(blobs.get_bytes(outcome.artifact_digest))
        own_prompt = artifact.prompt_embeddings.size > 0 and not artifact.sources
        if artifact.metadata.get("tuned") == "true" or own_prompt:
            sys.stderr.write(f"{ensemble} was tuned: its prompt is not a composite of sources\n")
            return 1
        recomputed = recomputed_digest(artifact, blobs)
    except (EnsembleError, JobsError, PromptStoreError, SettingsError) as error:
        sys.stderr.write(f"cannot verify {ensemble}: {error}\n")
        return 1
    stated = artifact.metadata.get("composite_digest")
    served = composite_digest(torch.from_numpy(artifact.prompt_embeddings))
    same = recomputed == stated == served
    sys.stdout.write(
        f"{'same' if same else 'DIFFERENT'}: {stated} stated, {served} served, {recomputed} made\n"
    )
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
