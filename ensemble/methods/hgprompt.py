"""`hgprompt`: learned weights, the gradient-variance penalty, and every simpler choice beside it.

HGPrompt (Zhang et al. 2026, AAAI, arXiv 2504.12311): maximise H~(f_alpha) - lambda R(alpha) over
the simplex, with f_alpha = sum_j alpha_j f(x; P_j), and serve the composite prompt
sum_j alpha_j P_j. The departures are stated where they are made (`hscore`, `gradient_variance`,
`composition`). No prompt, the uniform mean or LogME's source is served instead where its
cross-fitted log-loss is lower, and whatever else is clearly better (`choice`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ensemble.candidates import Candidate, ranked
from ensemble.class_head import of_known_class
from ensemble.composite_objective import CompositeSolution
from ensemble.composition import compose, composition_gap
from ensemble.fit_session import BATCH_SIZE, FitSession
from ensemble.gradient_variance import (
    GradientMoments,
    GradientVariancePenalty,
    gradient_cosine,
    loss_cotangents,
    prompt_gradient_moments,
)
from ensemble.hscore import adjusted_h_score, h_score
from ensemble.leaderboard import paired_difference
from ensemble.methods.ablations import run_ablations
from ensemble.methods.choice import (
    after_tuning,
    choose,
    lowest_log_loss,
)
from ensemble.methods.findings import CompositionGap, Diagnostics, Findings
from ensemble.methods.single import single_candidates
from ensemble.methods.source_scores import score_sources
from ensemble.methods.tuning import tuning_start, with_tuning
from ensemble.methods.weights import learn_weights, refine_on_composite
from ensemble.simplex import WeightSolution

GRADIENT_IMAGES = 8
"""Images whose per-image gradients estimate u_i: one batch a source, so that R stays cheap."""

GAP_IMAGES = 32
"""Training images on which the composition gap is measured, aligned and not."""


@dataclass(frozen=True)
class _Learned:
    """What was learned from the sources' features and from the gradients on some images."""

    solution: WeightSolution
    moments: list[GradientMoments]
    num_images: int
    penalty: GradientVariancePenalty


def fit_hgprompt(fit: FitSession) -> Findings:
    """Learn weights, and score them against every simpler candidate."""
    M = len(fit.sources)
    plain, *by_source = fit.features_of("features", [None, *fit.sources.stored])
    uniform = torch.full((M,), 1 / M, dtype=torch.float64)
    learned = _learn(fit, by_source, uniform)
    scores = score_sources(fit, by_source)
    weights, refined = learned.solution.weights, None
    if fit.options.composition == "exact":
        refined = refine_on_composite(fit, by_source, weights, learned.penalty)
        weights = refined.weights
    prompts = [compose(fit.sources.aligned, w) for w in (uniform, weights)]
    mean_features, features = fit.features_of("composite", prompts)
    ensemble = fit.candidate("hgprompt", weights, prompts[1], features)
    mean = fit.candidate("mean", uniform, prompts[0], mean_features)
    singles = single_candidates(fit, by_source)
    evident = max(range(M), key=lambda i: scores[i].logme)
    none = fit.candidate("none", torch.zeros(0), fit.no_prompt, plain)
    # Equals stay in this order, so the learned ensemble comes before what it does not beat.
    candidates = [ensemble, none, mean, *singles]
    simple = ranked(candidates[1:])[0]
    favoured = [ensemble, none, mean, singles[evident]]
    chosen = choose(favoured, candidates, fit.labels)
    gap = _gap(fit, weights, by_source, features)
    all_candidates = with_tuning(fit, candidates, start=chosen)
    ablations = run_ablations(
        fit,
        by_source,
        ensemble,
        summed_weights=learned.solution.weights,
        penalty=learned.penalty,
        tuned=_tuned_ensemble(ensemble, tuning_start(candidates, chosen), all_candidates),
    )
    diagnostics = Diagnostics(
        objective=_objective(fit, learned.solution, refined, by_source, features),
        sources=scores,
        gradient_cosine=gradient_cosine(learned.moments),
        gradient_num_images=learned.num_images,
        composition_gap=gap,
        objective_curve=learned.solution.curve,
        composite_curve=refined.curve if refined else (),
        ablations=ablations,
        advice=_advice(fit, ensemble, simple, chosen, favoured),
        plain_features=plain,
        composite_features=features,
    )
    return Findings(weights, all_candidates, diagnostics, after_tuning(chosen, all_candidates))


def _tuned_ensemble(
    ensemble: Candidate, start: Candidate | None, candidates: Sequence[Candidate]
) -> Candidate | None:
    """Return the learned ensemble tuned, or itself if that did not help; None if it was not."""
    if start is not ensemble:
        return None
    return next((c for c in candidates if c.standing.tuned), ensemble)


_REFRESHES = ("again", "once more")
"""How the stages of each refresh are called: no stage of a fit may come twice."""


def _learn(fit: FitSession, by_source: list[Tensor], weights: Tensor) -> _Learned:
    """Estimate the gradients' variances at `weights` and solve, as often as was asked for."""
    learned = _learn_once(fit, by_source, weights, "gradients", "weights")
    for refresh in _REFRESHES[: fit.options.cotangent_refreshes - 1]:
        weights = learned.solution.weights
        stages = (f"gradients {refresh}", f"weights {refresh}")
        learned = _learn_once(fit, by_source, weights, *stages)
    return learned


def _learn_once(
    fit: FitSession, by_source: list[Tensor], weights: Tensor, gradients: str, solving: str
) -> _Learned:
    rows = _gradient_rows(fit)
    moments = _gradient_moments(fit, rows, by_source, weights, gradients)
    penalty = GradientVariancePenalty(torch.stack([m.variance for m in moments]))
    solution = learn_weights(fit, by_source, penalty, stage=solving)
    return _Learned(solution, moments, len(rows), penalty)


def _gradient_rows(fit: FitSession) -> Tensor:
    """Draw training rows of classes that a head which has not seen the image can know."""
    known = fit.train_rows[of_known_class(fit.labels[fit.train_rows])]
    return _draw(known if len(known) else fit.train_rows, GRADIENT_IMAGES, fit.seed)


def _gradient_moments(
    fit: FitSession, rows: Tensor, by_source: list[Tensor], weights: Tensor, stage: str
) -> list[GradientMoments]:
    """Moments over `rows` of each source's per-image gradients at the feature sum of `weights`."""
    prompts = fit.sources.aligned
    with fit.timed("gradients"):
        weighted = feature_sum(weights, by_source)
        head = fit.train_head(weighted)
        predicted = head.held_out_logits[torch.searchsorted(fit.train_rows, rows)]
        cotangents = loss_cotangents(head.weight, predicted, fit.labels[rows])
        total = len(prompts) * len(rows)

        def on_batch(done: int) -> None:
            fit.progress(stage, done, total)
            fit.checkpoint()

        moments = prompt_gradient_moments(
            fit.vit,
            fit.pixels[rows],
            prompts,
            cotangents,
            batch_size=BATCH_SIZE,
            on_batch=on_batch,
        )
        fit.progress(stage, total, total)
        return moments


def draw_train_rows(fit: FitSession, limit: int) -> Tensor:
    """Draw at most `limit` of the training rows, sorted; archives hold one class after another."""
    return _draw(fit.train_rows, limit, fit.seed)


def _draw(rows: Tensor, limit: int, seed: int) -> Tensor:
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:limit]
    return rows[order.sort().values]


def feature_sum(weights: Tensor, by_source: list[Tensor]) -> Tensor:
    """Return f_alpha = sum_j alpha_j f_j, (N, D) float64."""
    return torch.einsum("m,mnd->nd", weights, torch.stack(by_source).double())


def _objective(
    fit: FitSession,
    solution: WeightSolution,
    refined: CompositeSolution | None,
    by_source: list[Tensor],
    composite: Tensor,
) -> dict[str, float]:
    """The parts of the objective at the weights that are served, refined or not."""
    labels, shrinkage = fit.labels[fit.train_rows], fit.options.shrinkage
    final = refined or solution
    summed = feature_sum(final.weights, by_source)[fit.train_rows]
    adjusted = solution.h_score_adjusted
    if refined:
        adjusted = float(adjusted_h_score(summed, labels, shrinkage=shrinkage))
    served = adjusted_h_score(composite[fit.train_rows], labels, shrinkage=shrinkage)
    return {
        "h_score": float(h_score(summed, labels)),
        "h_score_adjusted": adjusted,
        "gradient_penalty": final.gradient_penalty,
        "total": adjusted - fit.options.penalty_weight * final.gradient_penalty,
        "composite_h_score_adjusted": float(served),
    }


def _gap(
    fit: FitSession, weights: Tensor, by_source: list[Tensor], composite: Tensor
) -> CompositionGap | None:
    """How far composing prompts is from summing features, with the tokens aligned and as stored."""
    rows = draw_train_rows(fit, GAP_IMAGES)
    features = torch.stack(by_source)[:, rows]
    (unaligned,) = fit.features_of("composition gap", [compose(fit.sources.stored, weights)], rows)
    stored = composition_gap(unaligned, features, weights)
    if math.isnan(stored):
        return None
    if not fit.options.align:
        return CompositionGap(aligned=math.nan, unaligned=stored, num_images=len(rows))
    aligned = composition_gap(composite[rows], features, weights)
    return CompositionGap(aligned=aligned, unaligned=stored, num_images=len(rows))


def _advice(
    fit: FitSession,
    learned: Candidate,
    simple: Candidate,
    chosen: Candidate,
    favoured: Sequence[Candidate],
) -> str | None:
    """Say so if the learned ensemble does not beat a simpler candidate, or is not served."""
    ahead = learned.standing.accuracy > simple.standing.accuracy
    if ahead and chosen is learned:
        return None
    rival = chosen if ahead else simple
    rows = fit.validation_rows
    _, low, high = paired_difference(
        rival.head.held_out_logits[rows], learned.head.held_out_logits[rows], fit.labels[rows]
    )
    verdict = "" if ahead else ": the learned weights do not beat the simpler choice here"
    return (
        f"On {len(rows)} held-out images {_name(rival, simple)} scored "
        f"{rival.standing.accuracy:.3f} and the learned ensemble {learned.standing.accuracy:.3f} "
        f"(difference {low:+.3f} to {high:+.3f} with 95 % confidence){verdict}. "
        f"{_consequence(fit, learned, chosen, simple, favoured)}"
    )


def _name(candidate: Candidate, best: Candidate) -> str:
    """A simple candidate in words; `best` is the best of them held out."""
    single = "the best single source" if candidate is best else "another single source"
    names = {"none": "no prompt", "mean": "the uniform mean", "single": single}
    return names[candidate.standing.method]


def _consequence(
    fit: FitSession,
    learned: Candidate,
    chosen: Candidate,
    simple: Candidate,
    favoured: Sequence[Candidate],
) -> str:
    lowest = lowest_log_loss(favoured, fit.labels)
    if chosen is lowest is learned:
        return "Over all images that is within chance, so the learned ensemble was kept."
    name = "the learned ensemble" if chosen is learned else _name(chosen, simple)
    if chosen is lowest:
        return f"Over all images {name} has the lower cross-fitted log-loss, so it was chosen."
    if lowest is learned:
        return f"Over all images {name} is better beyond chance, so it was chosen."
    return (
        f"Over all images {name} is better beyond chance than {_name(lowest, simple)}, which has "
        "the lowest cross-fitted log-loss, so it was chosen."
    )
