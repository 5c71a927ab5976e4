"""`mean`: the uniform average of the sources."""

import torch

from ensemble.composition import compose
from ensemble.fit_session import FitSession
from ensemble.methods.findings import Findings
from ensemble.methods.tuning import with_tuning


def fit_mean(fit: FitSession) -> Findings:
    """Compose all sources with equal weights."""
    M = len(fit.sources)
    weights = torch.full((M,), 1 / M, dtype=torch.float64)
    prompt = compose(fit.sources.aligned, weights)
    (features,) = fit.features_of("features", [prompt])
    candidates = with_tuning(fit, [fit.candidate("mean", weights, prompt, features)])
    return Findings(weights, candidates)
