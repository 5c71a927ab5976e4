"""`vpt`: visual prompt tuning from a random start (Jia et al. 2022, ECCV, arXiv 2203.12119).

Departures: AdamW at the one learning rate that was asked for, where the paper has SGD and searches
learning rate and weight decay for each task. And the head starts from the closed-form fit on the
random prompt's features instead of at random, as for every method here, so that no method is behind
because of its head. But on few images such a head leaves the random prompt little error to learn
from: this can be behind the paper's VPT.
"""

import torch
from torch import Tensor

from ensemble.fit_session import FitSession
from ensemble.methods.findings import Findings
from ensemble.methods.tuning import with_tuning
from ensemble.prompted_vit import init_prompt

NUM_PROMPT_TOKENS = 10
"""P where no source says how many."""


def fit_vpt(fit: FitSession) -> Findings:
    """Tune a prompt of the sources' shape, deep and of 10 tokens without sources."""
    prompt = random_prompt(fit)
    (features,) = fit.features_of("features", [prompt])
    candidates = with_tuning(fit, [fit.candidate("vpt", torch.zeros(0), prompt, features)])
    return Findings(torch.zeros(0), candidates)


def random_prompt(fit: FitSession) -> Tensor:
    """Return a random prompt (L, P, D), drawn with the seed of the fit."""
    vit = fit.vit
    shape = (vit.depth, NUM_PROMPT_TOKENS)
    if len(fit.sources):
        shape = (fit.sources.stored.shape[1], fit.sources.stored.shape[2])
    return init_prompt(
        *shape,
        vit.embed_dim,
        patch_size_px=vit.patch_size_px,
        generator=torch.Generator().manual_seed(fit.seed),
    )
