"""`spot`: start from the sources whose prompts are most like the target's own.

SPoT (Vu et al. 2022, "SPoT: Better Frozen Model Adaptation through Soft Prompt Transfer", ACL,
arXiv 2110.07904): the prompt that a task has after a fixed number of steps is its embedding. Both
of its retrievals are candidates: the most similar source ("best of top-1"), which the leaderboard
names, and, unless that is the same, the top-k average with weights sim_r / sum sim, which has no
one source.

Departures: deep prompts, compared layer by layer; negative similarities count 0 in the average;
the sources' tokens are aligned before they are averaged (`ensemble.composition`), unless `align` is
false. The steps for the embedding come on top of the tuning epochs.
"""

import torch
from torch import Tensor

from ensemble.composition import compose
from ensemble.fit_session import FitSession
from ensemble.methods.findings import Diagnostics, Findings
from ensemble.methods.target_prompt import prompt_similarities, target_prompt
from ensemble.methods.tuning import with_tuning

TOP_K = 3


def fit_spot(fit: FitSession) -> Findings:
    """Retrieve by similarity, compose, and tune the better of the two candidates."""
    similarities = prompt_similarities(target_prompt(fit), fit.sources.stored)
    nearest, average = (retrieval_weights(similarities, k) for k in (1, TOP_K))
    choices: list[tuple[Tensor, int | None]] = [(nearest, int(nearest.argmax()))]
    if not torch.equal(nearest, average):
        choices.append((average, None))
    prompts = [compose(fit.sources.aligned, weights) for weights, _ in choices]
    features = fit.features_of("composite", prompts)
    candidates = with_tuning(
        fit,
        [
            fit.candidate("spot", weights, prompt, f, source=source)
            for (weights, source), prompt, f in zip(choices, prompts, features, strict=True)
        ],
    )
    diagnostics = Diagnostics(similarities=tuple(similarities.tolist()))
    return Findings(candidates[0].weights, candidates, diagnostics)


def retrieval_weights(similarities: Tensor, k: int) -> Tensor:
    """Return weights (M,) in proportion to the k largest similarities; uniform if none is > 0."""
    top = similarities.topk(min(k, len(similarities))).indices
    shares = similarities[top].clamp_min(0)
    if not bool(shares.any()):
        shares = torch.ones_like(shares)
    weights = torch.zeros(len(similarities), dtype=torch.float64)
    weights[top] = (shares / shares.sum()).double()
    return weights
