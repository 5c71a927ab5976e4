"""One cell: fit on a subset of the pool, test what the fit chose."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict

from torch import Tensor
from torch.nn import functional

from benchmarks.suite.cached_features import CachedFeatures
from benchmarks.suite.cells import Cell
from benchmarks.suite.records import CellRecord, Place, pack_correct
from benchmarks.suite.source_prompts import SourcePrompt
from benchmarks.suite.subsets import draw_training_rows
from benchmarks.suite.target_tasks import TargetTask
from benchmarks.suite.variants import Variant
from ensemble.candidates import Candidate
from ensemble.fitting import fit_ensemble
from ensemble.leaderboard import validate
from ensemble.methods.choice import cross_fitted_log_loss
from ensemble.prompt_tuning import LabelledPixels
from ensemble.prompted_vit import PromptedViT

TEST_BATCH_SIZE = 64


def compute_cell(
    cell: Cell,
    *,
    variant: Variant,
    task: TargetTask,
    sources: Sequence[SourcePrompt],
    vit: PromptedViT,
    extract: CachedFeatures,
    run: str,
    on_stage: Callable[[str, int, int], None] = lambda _stage, _step, _total: None,
) -> CellRecord:
    """Fit and test one cell.

    Nothing about the test images reaches the fit: every choice, the candidate included, is made
    on its own validation part.

    Args:
        cell: Which.
        variant: Its method and options.
        task: Its target task.
        sources: Its source prompts, M of them.
        vit: The backbone.
        extract: Features of the target's images.
        run: Identifier of this run.
        on_stage: Told the stage of the fit, its step and how many it has.

    Raises:
        EnsembleError: The fit refused its input.
    """

    def progress(
        stage: str,
        step: int,
        total: int,
        *,
        weights: Sequence[float] | None = None,
        objective: float | None = None,
    ) -> None:
        del weights, objective
        on_stage(stage, step, total)

    rows = draw_training_rows(task.pool.labels, cell.shots, cell.seed)
    started_s = time.perf_counter()
    found = fit_ensemble(
        vit,
        [source.prompt for source in sources],
        LabelledPixels(task.pool.pixels[rows], task.pool.labels[rows]),
        num_classes=len(task.pool.classes),
        method=variant.method,
        options=variant.options,
        seed=cell.seed,
        progress=progress,
        extract=extract,
    )
    fit_s = time.perf_counter() - started_s
    on_stage("test", 0, 1)
    features = extract(
        vit, task.test.pixels, [c.prompt for c in found.candidates], batch_size=TEST_BATCH_SIZE
    )
    tested = [c.head.logits(f) for c, f in zip(found.candidates, features, strict=True)]
    served = next(i for i, c in enumerate(found.candidates) if c is found.served)
    logits, labels = tested[served], task.test.labels
    score = validate(logits, labels)
    on_stage("test", 1, 1)

    kept = [sources[i].name for i in found.kept]
    places = tuple(
        _place(candidate, kept, task.pool.labels[rows], _accuracy(candidate_logits, labels))
        for candidate, candidate_logits in zip(found.candidates, tested, strict=True)
    )
    return CellRecord(
        cell=cell,
        options=asdict(variant.options),
        sources=tuple(source.name for source in sources),
        task_digest=task.digest,
        num_classes=len(task.pool.classes),
        num_images=len(rows),
        test_accuracy=score.accuracy,
        test_log_loss=round(float(functional.cross_entropy(logits, labels)), 5),
        test_ece=round(score.ece, 5),
        test_correct=pack_correct((logits.argmax(1) == labels).numpy()),
        num_test=len(labels),
        chosen=places[served],
        leaderboard=places,
        weights={n: round(w, 6) for n, w in zip(kept, found.weights.tolist(), strict=False)},
        fit_s=round(fit_s, 2),
        run=run,
    )


def _place(
    candidate: Candidate, kept: Sequence[str], labels: Tensor, test_accuracy: float
) -> Place:
    """Describe a candidate; `labels` (N,) are those of the images that it was fitted on."""
    standing = candidate.standing
    return Place(
        method=standing.method,
        source=None if standing.source is None else kept[standing.source],
        tuned=standing.tuned,
        accuracy=round(standing.accuracy, 6),
        log_loss=round(standing.log_loss, 5),
        cross_fit_accuracy=round(_accuracy(candidate.head.held_out_logits, labels), 6),
        cross_fit_log_loss=round(cross_fitted_log_loss(candidate, labels), 5),
        test_accuracy=round(test_accuracy, 6),
    )


def _accuracy(logits: Tensor, labels: Tensor) -> float:
    return float((logits.argmax(1) == labels).double().mean())
