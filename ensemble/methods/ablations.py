"""The learned ensemble with one part left out or changed, on the same held-out images."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ensemble.candidates import Candidate
from ensemble.composition import compose
from ensemble.fit_session import FitSession
from ensemble.gradient_variance import GradientVariancePenalty
from ensemble.leaderboard import paired_difference
from ensemble.methods.findings import Ablation
from ensemble.methods.tuning import tune_candidate
from ensemble.methods.weights import learn_weights, refine_on_composite


def run_ablations(
    fit: FitSession,
    by_source: Sequence[Tensor],
    learned: Candidate,
    *,
    summed_weights: Tensor,
    penalty: GradientVariancePenalty,
    tuned: Candidate | None,
) -> tuple[Ablation, ...]:
    """Score the ablations if they were asked for; none of them can be chosen.

    - without the gradient penalty: lambda = 0
    - without alignment: tokens averaged in the order in which they are stored
    - without composing: a head on the weighted feature sum, which takes M forward passes to serve
    - weights of the exact objective, or with `composition="exact"` those of the feature sum
    - with tuning: if `tuning_epochs` allows it, whatever candidate the fit itself tuned

    A part that the learned ensemble does not have cannot be left out: those rows are missing.

    Args:
        fit: The fit.
        by_source: Features (N, D) under each source.
        learned: The learned ensemble, not tuned.
        summed_weights: alpha (M,) learned on the feature sum, refined or not.
        penalty: That it was learned with.
        tuned: The learned ensemble after tuning, itself if no epoch was better; None if the fit
            has not tuned it.
    """
    if not fit.options.ablations:
        return ()
    weights: dict[str, Tensor] = {}
    prompts: list[Tensor] = []
    if fit.options.penalty_weight > 0:
        free = _weights_without_penalty(fit, by_source)
        weights["without the gradient penalty"] = free
        prompts.append(compose(fit.sources.aligned, free))
    if fit.options.align:
        weights["without alignment"] = learned.weights
        prompts.append(compose(fit.sources.stored, learned.weights))
    name, others = "weights of the feature sum", summed_weights
    if fit.options.composition == "feature_sum":
        name = "weights of the exact objective"
        others = _refined(fit, by_source, summed_weights, penalty)
    weights[name] = others
    prompts.append(compose(fit.sources.aligned, others))
    features = fit.features_of("ablations", prompts)
    weights["without composing"] = learned.weights
    summed = torch.einsum("m,mnd->nd", learned.weights, torch.stack(list(by_source)).double())
    scored = {
        name: fit.candidate("hgprompt", weights[name], learned.prompt, f)
        for name, f in zip(weights, [*features, summed], strict=True)
    }
    if fit.options.tuning_epochs > 0:
        if tuned is None:
            tuned = tune_candidate(fit, learned, prefix="ablation ") or learned
        scored["with tuning"] = tuned
    return tuple(_compare(fit, name, candidate, learned) for name, candidate in scored.items())


def _weights_without_penalty(fit: FitSession, by_source: Sequence[Tensor]) -> Tensor:
    """Learned as the ensemble's own, but for lambda."""
    learned = learn_weights(fit, by_source, None, stage="ablation weights", announce=False)
    if fit.options.composition == "feature_sum":
        return learned.weights
    return _refined(fit, by_source, learned.weights, None)


def _refined(
    fit: FitSession,
    by_source: Sequence[Tensor],
    weights: Tensor,
    penalty: GradientVariancePenalty | None,
) -> Tensor:
    return refine_on_composite(
        fit, by_source, weights, penalty, stage="ablation refinement", announce=False
    ).weights


def _compare(fit: FitSession, name: str, candidate: Candidate, learned: Candidate) -> Ablation:
    rows = fit.validation_rows
    mean, low, high = paired_difference(
        candidate.head.held_out_logits[rows],
        learned.head.held_out_logits[rows],
        fit.labels[rows],
    )
    return Ablation(name, candidate.standing, mean, (low, high), candidate.weights)
