"""One fit, from its request to what is published: load, compute, describe."""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import numpy as np
from torch import Tensor

from backbones.info import LoadedBackbone
from ensemble.composition import composite_digest
from ensemble.errors import EnsembleError, FitStoppedError
from ensemble.fit_result import FitResult
from ensemble.fitting import fit_ensemble
from ensemble.options import Precision
from ensemble.prompt_tuning import LabelledPixels
from images.errors import ImagesError
from jobs.context import FitContext
from jobs.errors import FitRefusedError
from jobs.records import FitRequest, FitResultDocs, SourceRef
from prompt_store.artifacts import Artifact, ArtifactSource, artifact_metadata, write_artifact
from prompt_store.blobs import BlobStore
from prompt_store.codec import BackboneShape
from prompt_store.errors import (
    DigestMismatchError,
    InvalidPromptError,
    NotFoundError,
    StoreFullError,
    StoreUnavailableError,
)
from prompt_store.objects import NO_ROOM
from prompt_store.scratch import scratch_folder
from worker.result_document import result_document
from worker.stored_prompts import stored_prompt
from worker.task_images import TaskImages, load_task_images, stored_limits

EXPECTED_ERRORS = (
    EnsembleError,
    ImagesError,
    InvalidPromptError,
    DigestMismatchError,
    NotFoundError,
)
"""Errors whose messages are written for the user who asked for the fit."""


class FitJob:
    """Computes fits on one warm backbone.

    Args:
        backbone: The backbone of this worker.
        blobs: Where prompts and task images are.
        load_fp32: Loads the same backbone in float32. Needed where this one is not: its weights
            have been rounded, so a fit that asks for fp32 cannot use them. Called for the first
            such fit, and kept.
    """

    def __init__(
        self,
        backbone: LoadedBackbone,
        blobs: BlobStore,
        load_fp32: Callable[[], LoadedBackbone],
    ) -> None:
        self.backbone = backbone
        self.blobs = blobs
        self._load_fp32 = load_fp32
        self._fp32 = backbone if backbone.info.dtype == "fp32" else None

    def __call__(self, context: FitContext) -> FitResultDocs:
        """Compute the fit that `context` asks for.

        Raises:
            FitRefusedError: This worker runs another backbone than the request names.
            EnsembleError, ImagesError, InvalidPromptError, DigestMismatchError, NotFoundError: The
                inputs.
            StoreFullError, StoreUnavailableError: It can be tried again later.
        """
        request = context.request
        if request.backbone_digest != self.backbone.info.digest:
            raise FitRefusedError(
                "backbone-mismatch",
                "The worker runs another backbone",
                f"the fit is for backbone {request.backbone_digest}, "
                f"this worker runs {self.backbone.info.digest}",
            )
        task = self._load_task(context)
        used = () if request.method == "none" else request.sources
        sources = load_sources(used, self.blobs, self.backbone)
        backbone = self._backbone_for(request.options.precision)

        def progress(
            stage: str,
            step: int,
            total: int,
            *,
            weights: Sequence[float] | None = None,
            objective: float | None = None,
        ) -> None:
            names = [source.name for source in request.sources]
            context.report_progress(
                stage,
                step,
                total,
                weights=None if weights is None else dict(zip(names, weights, strict=True)),
                objective=objective,
            )

        found = fit_ensemble(
            backbone.vit,
            sources,
            LabelledPixels(task.pixels, task.labels),
            num_classes=len(task.classes),
            method=request.method,
            options=request.options,
            seed=request.seed,
            progress=progress,
            should_stop=context.should_stop,
        )
        context.report_progress("publish")
        artifact = build_artifact(request, task, found)
        return FitResultDocs(
            artifact=write_artifact(artifact), result=result_document(request, task, found)
        )

    def _backbone_for(self, precision: Precision) -> LoadedBackbone:
        if precision in ("auto", self.backbone.info.dtype):
            return self.backbone
        if self._fp32 is None:
            self._fp32 = self._load_fp32()
        return self._fp32

    def _load_task(self, context: FitContext) -> TaskImages:
        num_images = 0

        def on_image() -> None:
            nonlocal num_images
            num_images += 1
            context.report_progress("images", num_images)
            if context.should_stop():
                raise FitStoppedError(f"stopped after {num_images} images were read")

        with _folder_to_unpack() as folder:
            path = folder / "task"
            self.blobs.fetch_to(context.request.task.digest, path)
            return load_task_images(
                path,
                self.backbone.info.preprocessing,
                limits=stored_limits(path.stat().st_size),
                on_image=on_image,
            ).without_copies()


@contextmanager
def _folder_to_unpack() -> Generator[Path]:
    try:
        with scratch_folder() as folder:
            yield folder
    except OSError as error:  # of this worker's disk: nothing that the fit could be blamed for
        if error.errno in NO_ROOM:
            raise StoreFullError(f"no room to unpack the task: {error}") from error
        raise StoreUnavailableError(f"the task cannot be unpacked: {error}") from error


def load_sources(
    sources: Sequence[SourceRef], blobs: BlobStore, backbone: LoadedBackbone
) -> list[Tensor]:
    """Return the prompts (L, P, D) of `sources`, checked against the backbone."""
    info = backbone.info
    shape = BackboneShape(digest=info.digest, embed_dim=info.embed_dim, depth=info.depth)
    return [stored_prompt(blobs, source.digest, shape) for source in sources]


def build_artifact(request: FitRequest, task: TaskImages, found: FitResult) -> Artifact:
    """Return what is served: the chosen candidate, with its lineage.

    Holds no time and no host, so that the same fit gives the same bytes.
    """
    weights = found.chosen_weights.numpy().astype(np.float64)
    used = [request.sources[i] for i in found.kept] if len(weights) else []
    sources = [
        ArtifactSource(name=s.name, version=s.version, digest=s.digest, weight=float(w))
        for s, w in zip(used, weights, strict=True)
    ]
    lineage = {
        "method": request.method,
        "chosen": found.chosen.method,
        "tuned": str(found.chosen.tuned).lower(),
        "align": str(request.options.align).lower(),
        "seed": str(request.seed),
        "task": f"{request.task.name}@{request.task.version}",
        "task_digest": request.task.digest,
        "composite_digest": composite_digest(found.prompt),
        "code_version": version("hgprompt"),
    }
    return Artifact(
        weights=weights,
        prompt_embeddings=found.prompt.numpy().astype(np.float32),
        head_weight=found.head.weight.numpy().astype(np.float32),
        head_bias=found.head.bias.numpy().astype(np.float32),
        metadata=artifact_metadata(
            classes=task.classes,
            sources=sources,
            backbone_digest=request.backbone_digest,
            lineage=lineage,
        ),
    )
