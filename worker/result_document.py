"""The result document of a fit, as the HTTP contract shows it."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from ensemble.composition import composite_digest
from ensemble.fit_result import FitResult
from ensemble.leaderboard import Standing
from ensemble.methods.findings import Ablation, CompositionGap
from ensemble.options import unused_options
from ensemble.projection import t_sne
from ensemble.screening import Look, Screening
from jobs.records import FitRequest, SourceRef
from jobs.result_document import (
    AblationFindings,
    CandidateStanding,
    DroppedSource,
    FeatureMap,
    GapFindings,
    Lineage,
    ObjectiveValues,
    ReliabilityBin,
    ResultDocument,
    ScreeningFindings,
    ScreeningLook,
    SourceFindings,
    ValidationFindings,
)
from worker.task_images import TaskImages

MAX_PROJECTED_IMAGES = 300
"""Points of the map of the features: t-SNE takes a second or two for so many."""

MAX_CONFUSION_CLASSES = 1000
"""The document has a confusion matrix of up to a million cells; it is read at each request."""


def result_document(request: FitRequest, task: TaskImages, found: FitResult) -> dict[str, Any]:
    """Return everything about a fit but the artifact, ready for JSON."""
    kept = [request.sources[i] for i in found.kept]
    names = [source.name for source in kept]
    diagnostics = found.diagnostics
    objective = diagnostics.objective
    document = ResultDocument(
        weights=dict(zip(names, found.weights.tolist(), strict=False)),
        objective=None if objective is None else ObjectiveValues(**objective),
        sources=_sources(kept, found),
        screening=_screening(request.sources, found),
        gradient_cosine=_rows(diagnostics.gradient_cosine),
        gradient_num_images=diagnostics.gradient_num_images,
        composition_gap=_gap(diagnostics.composition_gap),
        leaderboard=tuple(_standing(place, names) for place in found.leaderboard),
        chosen=_standing(found.chosen, names),
        ablations=tuple(_ablation(ablation, names) for ablation in diagnostics.ablations),
        validation=_validation(found),
        confusion_matrix=_confusion_matrix(found),
        classes=task.classes,
        embedding=_embedding(task.labels, found, request.seed),
        objective_curve=_curve(diagnostics.objective_curve),
        composite_curve=_curve(diagnostics.composite_curve),
        advice=diagnostics.advice,
        unused_options=unused_options(request.method, request.options, len(request.sources)),
        timings_s={stage: round(seconds, 3) for stage, seconds in found.timings_s.items()},
        lineage=Lineage(
            backbone_digest=request.backbone_digest,
            task=request.task,
            sources=request.sources,
            composite_digest=composite_digest(found.prompt),
            method=request.method,
            seed=request.seed,
            num_images=len(task.labels),
            num_copies=task.num_copies,
            code_version=version("hgprompt"),
        ),
    )
    return document.model_dump(mode="json", exclude_unset=True)


def _confusion_matrix(found: FitResult) -> list[list[int]] | None:
    matrix = found.validation.confusion_matrix
    return matrix.tolist() if len(matrix) <= MAX_CONFUSION_CLASSES else None


def _sources(kept: Sequence[SourceRef], found: FitResult) -> tuple[SourceFindings, ...]:
    """The sources that were kept, with what is known of each alone."""
    diagnostics = found.diagnostics
    accuracy = {s.source: s.accuracy for s in found.leaderboard if not s.tuned}
    findings: list[SourceFindings] = []
    for i, source in enumerate(kept):
        known: dict[str, Any] = {}
        if diagnostics.sources:
            known |= asdict(diagnostics.sources[i])
        if diagnostics.similarities:
            known["similarity"] = diagnostics.similarities[i]
        if i in accuracy:
            known["validation_accuracy"] = accuracy[i]
        findings.append(SourceFindings(**dict(source), **known))
    return tuple(findings)


def _screening(sources: Sequence[SourceRef], found: FitResult) -> ScreeningFindings | None:
    screening = found.screening
    if screening is None:
        return None
    return ScreeningFindings(
        num_images=screening.num_images,
        looks=tuple(
            ScreeningLook(num_images=look.num_images, num_sources=len(look.scores))
            for look in screening.looks
        ),
        dropped=tuple(
            _dropped(source, screening, look, look.scores[i])
            for i, source in enumerate(sources)
            for look in screening.looks
            if i in look.scores and i not in look.kept
        ),
    )


def _dropped(source: SourceRef, screening: Screening, look: Look, score: float) -> DroppedSource:
    """Why a look dropped a source: scores on other images than those of the look say nothing."""
    lowest = min(look.scores[i] for i in look.kept)
    stayed = "were kept" if look is screening.looks[-1] else "were looked at again"
    return DroppedSource(
        **dict(source),
        score=score,
        num_images=look.num_images,
        reason=f"adjusted H-score {score:.3f} on {look.num_images} images; the "
        f"{len(look.kept)} sources that {stayed} have {lowest:.3f} or more",
    )


def _gap(gap: CompositionGap | None) -> GapFindings | None:
    if gap is None:
        return None
    return GapFindings(
        aligned=_finite(gap.aligned), unaligned=_finite(gap.unaligned), num_images=gap.num_images
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _ablation(ablation: Ablation, names: Sequence[str]) -> AblationFindings:
    return AblationFindings(
        name=ablation.name,
        accuracy=ablation.standing.accuracy,
        ci95=ablation.standing.ci95,
        difference=ablation.difference,
        difference_ci95=ablation.difference_ci95,
        weights=dict(zip(names, ablation.weights.tolist(), strict=True)),
    )


def _validation(found: FitResult) -> ValidationFindings:
    validation = found.validation
    return ValidationFindings(
        num_images=validation.num_images,
        accuracy=validation.accuracy,
        ece=validation.ece,
        temperature=found.head.temperature,
        reliability=tuple(ReliabilityBin(**asdict(each)) for each in validation.reliability),
    )


def _embedding(labels: Tensor, found: FitResult, seed: int) -> FeatureMap | None:
    """A map of the images by their plain features and by those of the learned ensemble."""
    plain, composite = found.diagnostics.plain_features, found.diagnostics.composite_features
    if plain is None or composite is None:
        return None
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    rows = order[:MAX_PROJECTED_IMAGES].sort().values
    return FeatureMap(
        method="t-SNE",
        composite_of="hgprompt",
        labels=labels[rows].tolist(),
        plain=_map(plain[rows], seed),
        composite=_map(composite[rows], seed),
    )


def _map(features: Tensor, seed: int) -> list[tuple[float, float]]:
    return [(round(x, 4), round(y, 4)) for x, y in t_sne(features, seed=seed).tolist()]


def _curve(values: Sequence[float]) -> list[tuple[float, float]]:
    return [(i + 1, value) for i, value in enumerate(values)]


def _standing(place: Standing, names: Sequence[str]) -> CandidateStanding:
    known: dict[str, Any] = {"method": place.method}
    if place.source is not None:
        known["source"] = names[place.source]
    if place.tuned:
        known["tuned"] = True
    return CandidateStanding(
        **known, accuracy=place.accuracy, ci95=place.ci95, log_loss=place.log_loss
    )


def _rows(matrix: Tensor | None) -> list[list[float]] | None:
    return None if matrix is None else matrix.tolist()
