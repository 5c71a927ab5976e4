"""`none`: no prompt, a class head on the backbone's plain features."""

import torch

from ensemble.fit_session import FitSession
from ensemble.methods.findings import Diagnostics, Findings


def fit_none(fit: FitSession) -> Findings:
    """Fit the class head alone."""
    (plain,) = fit.features_of("features", [None])
    candidate = fit.candidate("none", torch.zeros(0), fit.no_prompt, plain)
    return Findings(torch.zeros(0), [candidate], Diagnostics(plain_features=plain))
