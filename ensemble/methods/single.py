"""`single`: the one source with the best held-out accuracy."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ensemble.candidates import Candidate, ranked
from ensemble.composition import compose
from ensemble.fit_session import FitSession
from ensemble.methods.findings import Diagnostics, Findings
from ensemble.methods.source_scores import score_sources
from ensemble.methods.tuning import with_tuning


def fit_single(fit: FitSession) -> Findings:
    """Try every source alone."""
    features = fit.features_of("features", list(fit.sources.stored))
    singles = single_candidates(fit, features)
    diagnostics = Diagnostics(sources=score_sources(fit, features))
    return Findings(ranked(singles)[0].weights, with_tuning(fit, singles), diagnostics)


def single_candidates(fit: FitSession, features: Sequence[Tensor]) -> list[Candidate]:
    """Return a candidate for each source, given its features (N, D)."""
    vertices = torch.eye(len(fit.sources), dtype=torch.float64)
    return [
        fit.candidate("single", vertex, compose(fit.sources.aligned, vertex), f, source=i)
        for i, (vertex, f) in enumerate(zip(vertices, features, strict=True))
    ]
