"""`logme`: the one source of the highest LogME (You et al. 2021, ICML, arXiv 2102.11005)."""

import torch

from ensemble.composition import compose
from ensemble.fit_session import FitSession
from ensemble.methods.findings import Diagnostics, Findings
from ensemble.methods.source_scores import score_sources
from ensemble.methods.tuning import with_tuning


def fit_logme(fit: FitSession) -> Findings:
    """Choose by evidence on the training part; the held-out images choose nothing."""
    features = fit.features_of("features", list(fit.sources.stored))
    scores = score_sources(fit, features)
    best = max(range(len(scores)), key=lambda i: scores[i].logme)
    weights = torch.eye(len(scores), dtype=torch.float64)[best]
    prompt = compose(fit.sources.aligned, weights)
    candidate = fit.candidate("logme", weights, prompt, features[best], source=best)
    return Findings(weights, with_tuning(fit, [candidate]), Diagnostics(sources=scores))
