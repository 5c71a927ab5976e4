"""The learned ensemble without each of its parts, on the same held-out images."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ensemble.candidates import Candidate
from ensemble.composition import compose
from ensemble.fit_session import FitSession
from ensemble.leaderboard import paired_difference
from ensemble.methods.findings import Ablation
from ensemble.methods.weights import learn_weights, refine_on_composite


def run_ablations(
    fit: FitSession, by_source: Sequence[Tensor], learned: Candidate
) -> tuple[Ablation, ...]:
    """Score the ablations if they were asked for; none of them can be chosen.

    - without the gradient penalty: lambda = 0
    - without alignment: tokens averaged in the order in which they are stored
    - without composing: a head on the weighted feature sum, which takes M forward passes to serve

    A part that the learned ensemble does not have cannot be left out: those rows are missing.
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
    features = fit.features_of("ablations", prompts) if prompts else []
    weights["without composing"] = learned.weights
    summed = torch.einsum("m,mnd->nd", learned.weights, torch.stack(list(by_source)).double())
    return tuple(
        _compare(fit, name, fit.candidate("hgprompt", weights[name], learned.prompt, f), learned)
        for name, f in zip(weights, [*features, summed], strict=True)
    )


def _weights_without_penalty(fit: FitSession, by_source: Sequence[Tensor]) -> Tensor:
    """Learned as the ensemble's own, but for lambda."""
    learned = learn_weights(fit, by_source, None, stage="ablation weights", announce=False)
    if fit.options.composition == "feature_sum":
        return learned.weights
    return refine_on_composite(
        fit, by_source, learned.weights, None, stage="ablation refinement", announce=False
    ).weights


def _compare(fit: FitSession, name: str, candidate: Candidate, learned: Candidate) -> Ablation:
    rows = fit.validation_rows
    mean, low, high = paired_difference(
        candidate.head.held_out_logits[rows],
        learned.head.held_out_logits[rows],
        fit.labels[rows],
    )
    return Ablation(name, candidate.standing, mean, (low, high), candidate.weights)
