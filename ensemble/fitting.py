"""Fit an ensemble: weights, composite prompt and class head for one labelled task.

The stages, in their order, for M sources and N images; each method has some of them:

    screening         if there are more sources than `max_sources`: each on at most 128 images,
                      or on 32 if there are more than four times as many
    screening again   in that case: four times `max_sources`, on the rest of the 128
    task embedding    spot, panda: the target's own prompt after a few steps
    source features   panda: of the training part
    features          plain features and each source's, once           (M + 1) N forward passes
    teacher tuning    panda: the most similar source, and then
    teacher features  of the training part
    gradients         per-image gradients of each source, on a few images
    weights           maximise H~(f_alpha) - lambda R(alpha) on the training part
    gradients again   with `cotangent_refreshes` above 1, and then
    weights again     (both once more with 3)
    refinement        with `composition="exact"`: on the composite's own features
    composite         features of the composites                         1 or 2 N forward passes
    composition gap   on a few images
    tuning            with `tuning_epochs`: the best prompted candidate and its head, jointly
    tuned features    if an epoch was better than the start              N forward passes
    ablation weights  with `ablations`, then
    ablation refinement  towards the exact objective, or without the penalty, and then
    ablations         features of the composites                         up to 3 N forward passes
    ablation tuning   with `tuning_epochs`, unless it was the learned ensemble that was tuned, and
    ablation tuned features

Every candidate's head is fitted in closed form once its features are there, and the candidate of
the highest held-out accuracy is chosen; "hgprompt" chooses among fewer, by log-loss, and looks at
the rest only for what is better beyond chance (`ensemble.methods.choice`).

The weights see the training part only. A candidate is scored on the validation part by its
cross-fitted predictions, so the head may be fitted on all N images, as the served one is.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ensemble.composition import align_tokens, check_prompts, stack_prompts
from ensemble.errors import OptionsError, ShapeError, TooFewImagesError
from ensemble.features import FeatureExtractor, extract_features
from ensemble.fit_result import FitResult
from ensemble.fit_session import FitSession, Sources
from ensemble.leaderboard import validate
from ensemble.methods.catalogue import METHODS
from ensemble.options import SOURCE_FREE_METHODS, FitOptions, Method, why_refused
from ensemble.progress import ProgressCallback, ignore_progress
from ensemble.prompt_tuning import LabelledPixels
from ensemble.prompted_vit import PromptedViT
from ensemble.screening import Screening, screen_sources
from ensemble.splits import stratified_split

_AUTOCAST_DTYPES = {"fp32": None, "bf16": torch.bfloat16}


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
    extract: FeatureExtractor = extract_features,
) -> FitResult:
    """Fit an ensemble of source prompts for a labelled task.

    Args:
        vit: The frozen backbone.
        sources: M source prompts, each (L, P, D); may be empty for "none" and "vpt".
        images: Pixels (N, 3, H, W) uint8 and labels (N,) in [0, num_classes).
        num_classes: C >= 2.
        method: See the modules of `ensemble.methods`; "hgprompt" learns weights and also tries
            no prompt, every single source and the uniform mean.
        options: See `FitOptions`.
        seed: Of the split, random starts and the order of tuning.
        progress: Told how far the fit is.
        should_stop: Asked between steps.
        extract: Where features of many images come from.

    Raises:
        ShapeError: No sources for a method that needs them, or sources that do not fit each other
            or the backbone; labels outside [0, num_classes).
        OptionsError: The options make no sense for the method.
        TooFewImagesError: No image can be held out, or fewer than two classes.
        FitStoppedError: `should_stop` returned true.
        EnsembleError: The features are degenerate or not finite.
    """
    options = options or FitOptions()
    _check_request(method, options, len(sources))
    _check_images(images, num_classes)
    if options.precision != "auto":
        vit = vit.with_autocast(_AUTOCAST_DTYPES[options.precision])
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
        extract=extract,
        train_rows=train_rows,
        validation_rows=validation_rows,
        sources=_sources(vit, ()),
    )
    # Not stacked before most of them may have been dropped: a thousand deep prompts are large.
    _check_sources(vit, sources)
    screening = None if method in SOURCE_FREE_METHODS else screen_sources(fit, sources)
    kept = screening.kept if screening else tuple(range(len(sources)))
    kept_sources = _sources(vit, [sources[i] for i in kept])
    if options.align and method not in SOURCE_FREE_METHODS:
        aligned = align_tokens(kept_sources.stored, should_stop)
        kept_sources = replace(kept_sources, aligned=aligned)
    fit = replace(
        fit,
        sources=kept_sources,
        progress=_for_all_sources(progress, kept, len(sources)),
    )
    return _result(fit, method, kept, screening)


def _check_request(method: Method, options: FitOptions, num_sources: int) -> None:
    if method not in SOURCE_FREE_METHODS and num_sources == 0:
        raise ShapeError(f"method {method!r} needs at least 1 source prompt, got 0")
    why = why_refused(method, options)
    if why:
        raise OptionsError(why)


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


def _check_sources(vit: PromptedViT, prompts: Sequence[Tensor]) -> None:
    if prompts:
        check_prompts(prompts)
        vit.check_prompt(prompts[0])


def _sources(vit: PromptedViT, prompts: Sequence[Tensor]) -> Sources:
    stored = stack_prompts(prompts) if prompts else torch.zeros(0, 1, 1, vit.embed_dim)
    return Sources(stored, stored)


def _for_all_sources(
    progress: ProgressCallback, kept: Sequence[int], num_sources: int
) -> ProgressCallback:
    """Report weights of the kept sources as weights of all, 0 for a dropped one."""

    def report(
        stage: str,
        step: int,
        total: int,
        *,
        weights: Sequence[float] | None = None,
        objective: float | None = None,
    ) -> None:
        if weights is not None:
            by_source = dict(zip(kept, weights, strict=True))
            weights = [by_source.get(i, 0.0) for i in range(num_sources)]
        progress(stage, step, total, weights=weights, objective=objective)

    return report


def _result(
    fit: FitSession, method: Method, kept: tuple[int, ...], screening: Screening | None
) -> FitResult:
    found = METHODS[method](fit)
    served, rows = found.chosen or found.candidates[0], fit.validation_rows
    return FitResult(
        weights=found.weights,
        candidates=tuple(found.candidates),
        served=served,
        validation=validate(served.head.held_out_logits[rows], fit.labels[rows]),
        kept=kept,
        screening=screening,
        diagnostics=found.diagnostics,
        timings_s=fit.timings_s,
    )
