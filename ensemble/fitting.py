"""Fit an ensemble: weights, composite prompt and class head for one labelled task.

The order of work, for `method="hgprompt"` with M sources and N images:

    features   plain features and each source's, once           (M + 1) N forward passes
    gradients  per-image gradients of each source, on a few images
    weights    maximise H~(f_alpha) - lambda R(alpha) on the training part, from cached features
    composite  features of the uniform and of the learned composite       2 N forward passes
    tuning     optional: joint tuning of the best prompted candidate and its head
    tuned features                                                          N forward passes

Every candidate's head is fitted in closed form once its features are there, and the candidate of
the highest held-out accuracy is chosen.

The weights see the training part only. A candidate is scored on the validation part by its
cross-fitted predictions, so the head may be fitted on all N images, as the served one is.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ensemble.class_head import fit_class_head
from ensemble.composition import align_tokens, compose, composition_gap, stack_prompts
from ensemble.errors import ShapeError, TooFewImagesError
from ensemble.fit_result import FitResult, SourceScore
from ensemble.fit_session import (
    BATCH_SIZE,
    Candidate,
    FitSession,
    ProgressCallback,
    ignore_progress,
)
from ensemble.gradient_variance import (
    GradientMoments,
    GradientVariancePenalty,
    gradient_cosine,
    loss_cotangents,
    prompt_gradient_moments,
)
from ensemble.hscore import adjusted_h_score, h_score
from ensemble.leaderboard import paired_difference, validate
from ensemble.options import FitOptions, Method
from ensemble.prompt_tuning import LabelledPixels, TuningConfig, tune_prompt
from ensemble.prompted_vit import PromptedViT
from ensemble.simplex import WeightSolution, solve_weights
from ensemble.splits import stratified_split

GRADIENT_IMAGES = 8
"""Images whose per-image gradients estimate u_i: one batch a source, so that R stays cheap."""


def fit_ensemble(
    vit: PromptedViT,
    sources: Sequence[Tensor],
    images: LabelledPixels,
    *,
    num_classes: int,
    method: Method = "hgprompt",
    options: FitOptions | None = None,
    seed: int = 0,
    progress: ProgressCallback = ignore_progress,
    should_stop: Callable[[], bool] = lambda: False,
) -> FitResult:
    """Fit an ensemble of source prompts for a labelled task.

    Args:
        vit: The frozen backbone.
        sources: M source prompts, each (L, P, D); may be empty for `method="none"` only.
        images: Pixels (N, 3, H, W) uint8 and labels (N,) in [0, num_classes).
        num_classes: C >= 2.
        method: "hgprompt" learns weights and also tries all simpler candidates; "none", "single"
            (best source by held-out accuracy) and "mean" (uniform weights) try only themselves.
        options: See `FitOptions`.
        seed: Of the split, the random start of the weights and the order of tuning.
        progress: Told how far the fit is.
        should_stop: Asked between steps.

    Raises:
        ShapeError: No sources for a method that needs them, or sources that do not fit each other
            or the backbone; labels outside [0, num_classes).
        TooFewImagesError: No image can be held out, or fewer than two classes.
        FitStoppedError: `should_stop` returned true.
        EnsembleError: The features are degenerate or not finite.
    """
    options = options or FitOptions()
    if method != "none" and not sources:
        raise ShapeError(f"method {method!r} needs at least 1 source prompt, got 0")
    _check_images(images, num_classes)
    train_rows, validation_rows = stratified_split(images.labels, options.validation_fraction, seed)
    fit = FitSession(
        vit=vit,
        pixels=images.pixels,
        labels=images.labels,
        num_classes=num_classes,
        options=options,
        seed=seed,
        progress=progress,
        should_stop=should_stop,
        train_rows=train_rows,
        validation_rows=validation_rows,
    )
    if method == "none":
        (plain,) = fit.features_of("features", [None])
        chosen = fit.candidate("none", None, torch.zeros(0), fit.no_prompt, plain)
        return _result(fit, [chosen], torch.zeros(0))
    prompts = stack_prompts(sources)
    if options.align:
        prompts = align_tokens(prompts)
    if method == "hgprompt":
        return _fit_hgprompt(fit, prompts)
    return _fit_simple(fit, prompts, method)


def _check_images(images: LabelledPixels, num_classes: int) -> None:
    if num_classes < 2:  # noqa: PLR2004
        raise TooFewImagesError(f"{num_classes} class; a classifier needs at least 2")
    if len(images) != len(images.pixels):
        raise ShapeError(f"{len(images.pixels)} images but {len(images)} labels")
    if len(images) == 0:
        raise TooFewImagesError("0 images; at least 2 of one class are needed")
    low, high = int(images.labels.min()), int(images.labels.max())
    if low < 0 or high >= num_classes:
        raise ShapeError(f"labels from {low} to {high}; they must be 0 to {num_classes - 1}")


def _fit_simple(fit: FitSession, prompts: Tensor, method: Method) -> FitResult:
    """Fit `single` or `mean` alone."""
    M = len(prompts)
    if method == "mean":
        weights = [torch.full((M,), 1 / M, dtype=torch.float64)]
    else:
        weights = list(torch.eye(M, dtype=torch.float64))
    composites = [compose(prompts, w) for w in weights]
    features = fit.features_of("features", composites)
    candidates = [
        fit.candidate(method, i if method == "single" else None, w, prompt, f)
        for i, (w, prompt, f) in enumerate(zip(weights, composites, features, strict=True))
    ]
    candidates.sort(key=_rank)
    candidates = _with_tuning(fit, candidates)
    return _result(fit, candidates, candidates[0].weights)


def _fit_hgprompt(fit: FitSession, prompts: Tensor) -> FitResult:
    """Learn weights, and score them against every simpler candidate."""
    M = len(prompts)
    plain, *by_source = fit.features_of("features", [None, *prompts])
    features = torch.stack(by_source)  # (M, N, D)
    uniform = torch.full((M,), 1 / M, dtype=torch.float64)
    moments = _gradient_moments(fit, prompts, torch.einsum("m,mnd->nd", uniform, features.double()))
    solution, sources = _learn_weights(fit, features, moments)
    composites = [compose(prompts, uniform), compose(prompts, solution.weights)]
    mean_features, learned_features = fit.features_of("composite", composites)
    candidates = [
        fit.candidate("hgprompt", None, solution.weights, composites[1], learned_features),
        fit.candidate("none", None, torch.zeros(0), fit.no_prompt, plain),
        fit.candidate("mean", None, uniform, composites[0], mean_features),
    ]
    candidates += [
        fit.candidate("single", i, vertex, compose(prompts, vertex), features[i])
        for i, vertex in enumerate(torch.eye(M, dtype=torch.float64))
    ]
    # Equals stay in this order, so the learned ensemble comes before what it does not beat.
    candidates = _with_tuning(fit, sorted(candidates, key=_rank))
    train_features = torch.einsum("m,mnd->nd", solution.weights, features.double())[fit.train_rows]
    objective = {
        "h_score": float(h_score(train_features, fit.labels[fit.train_rows])),
        "h_score_adjusted": solution.h_score_adjusted,
        "gradient_penalty": solution.gradient_penalty,
        "total": solution.objective,
    }
    gap = composition_gap(learned_features, features, solution.weights)
    return replace(
        _result(fit, candidates, solution.weights),
        objective=objective,
        sources=sources,
        gradient_cosine=gradient_cosine(moments),
        composition_gap=None if math.isnan(gap) else gap,
        objective_curve=solution.curve,
        advice=_advice(fit, candidates),
    )


def _gradient_moments(fit: FitSession, prompts: Tensor, weighted: Tensor) -> list[GradientMoments]:
    """Moments of each source's per-image gradients at the uniform feature sum (N, D)."""
    with fit.timed("gradients"):
        generator = torch.Generator().manual_seed(fit.seed)
        order = torch.randperm(len(fit.train_rows), generator=generator)[:GRADIENT_IMAGES]
        rows = fit.train_rows[order.sort().values]
        head = fit_class_head(weighted[fit.train_rows], fit.labels[fit.train_rows], fit.num_classes)
        cotangents = loss_cotangents(head, weighted[rows], fit.labels[rows])
        moments: list[GradientMoments] = []
        for i, prompt in enumerate(prompts):
            fit.checkpoint()
            fit.progress("gradients", i, len(prompts))
            moments.append(
                prompt_gradient_moments(
                    fit.vit, fit.pixels[rows], prompt, cotangents, batch_size=BATCH_SIZE
                )
            )
        fit.progress("gradients", len(prompts), len(prompts))
        return moments


def _learn_weights(
    fit: FitSession, features: Tensor, moments: list[GradientMoments]
) -> tuple[WeightSolution, tuple[SourceScore, ...]]:
    """Solve for the weights on the training part, and score each source there."""
    fit.checkpoint()
    train_features, train_labels = features[:, fit.train_rows], fit.labels[fit.train_rows]
    fit.progress("weights", 0, 1)
    with fit.timed("weights"):
        solution = solve_weights(
            train_features,
            train_labels,
            shrinkage=fit.options.shrinkage,
            penalty=GradientVariancePenalty(torch.stack([m.variance for m in moments])),
            penalty_weight=fit.options.penalty_weight,
            seed=fit.seed,
            on_evaluation=lambda _n, _objective: fit.checkpoint(),
        )
        shrinkage = fit.options.shrinkage
        sources = tuple(
            SourceScore(
                h_score=float(h_score(f, train_labels)),
                h_score_adjusted=float(adjusted_h_score(f, train_labels, shrinkage=shrinkage)),
            )
            for f in train_features
        )
    fit.progress("weights", 1, 1, weights=solution.weights.tolist(), objective=solution.objective)
    return solution, sources


def _with_tuning(fit: FitSession, candidates: list[Candidate]) -> list[Candidate]:
    """Add the best prompted candidate tuned on the training part, if tuning was asked for."""
    epochs = fit.options.tuning_epochs
    best = next((c for c in candidates if c.prompt.shape[1] > 0), None)
    if epochs == 0 or best is None:
        return candidates
    fit.progress("tuning", 0, epochs)
    rows, held_out = fit.train_rows, fit.validation_rows
    # Not the candidate's own head: that was fitted on the held-out images too, and the epoch is
    # chosen by the loss on them.
    head = fit_class_head(best.features[rows], fit.labels[rows], fit.num_classes)
    config = TuningConfig(
        epochs=epochs,
        batch_size=BATCH_SIZE,
        prompt_learning_rate=fit.options.prompt_learning_rate,
        head_learning_rate=fit.options.prompt_learning_rate,
    )
    with fit.timed("tuning"):
        tuned = tune_prompt(
            fit.vit,
            best.prompt,
            LabelledPixels(fit.pixels[rows], fit.labels[rows]),
            LabelledPixels(fit.pixels[held_out], fit.labels[held_out]),
            num_classes=fit.num_classes,
            config=config,
            seed=fit.seed,
            initial_head=head,
            on_epoch=lambda e: fit.progress("tuning", e.epoch, e.epochs),
            should_stop=fit.should_stop,
        )
    prompt = tuned.prompt.cpu()
    (features,) = fit.features_of("tuned features", [prompt])
    candidate = fit.candidate(
        best.standing.method, best.standing.source, best.weights, prompt, features, tuned=True
    )
    return sorted([*candidates, candidate], key=_rank)


def _rank(candidate: Candidate) -> tuple[float, float]:
    """Sort key: best accuracy first, then lowest log-loss."""
    return -candidate.standing.accuracy, candidate.standing.log_loss


def _result(fit: FitSession, candidates: list[Candidate], weights: Tensor) -> FitResult:
    chosen, rows = candidates[0], fit.validation_rows
    return FitResult(
        weights=weights,
        chosen=chosen.standing,
        chosen_weights=chosen.weights,
        prompt=chosen.prompt,
        head=chosen.head,
        leaderboard=tuple(c.standing for c in candidates),
        validation=validate(chosen.head.held_out_logits[rows], fit.labels[rows]),
        objective=None,
        sources=(),
        gradient_cosine=None,
        composition_gap=None,
        objective_curve=(),
        advice=None,
        timings_s=fit.timings_s,
    )


def _advice(fit: FitSession, candidates: list[Candidate]) -> str | None:
    """Say so if the learned ensemble does not beat a simpler candidate."""
    learned = next(c for c in candidates if c.standing.method == "hgprompt")
    simple = next(c for c in candidates if c.standing.method != "hgprompt")
    if learned.standing.accuracy > simple.standing.accuracy:
        return None
    rows = fit.validation_rows
    _, low, high = paired_difference(
        simple.head.held_out_logits[rows], learned.head.held_out_logits[rows], fit.labels[rows]
    )
    name = {"none": "no prompt", "mean": "the uniform mean", "single": "the best single source"}
    return (
        f"On {len(rows)} held-out images {name[simple.standing.method]} scored "
        f"{simple.standing.accuracy:.3f} and the learned ensemble {learned.standing.accuracy:.3f} "
        f"(difference {low:+.3f} to {high:+.3f} with 95 % confidence): the learned weights do not "
        "beat the simpler choice here."
    )
