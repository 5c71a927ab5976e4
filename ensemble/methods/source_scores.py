"""What each source alone is worth for the target, by transferability scores."""

from collections.abc import Sequence

from torch import Tensor

from ensemble.fit_session import FitSession
from ensemble.hscore import adjusted_h_score, h_score
from ensemble.logme import log_maximum_evidence
from ensemble.methods.findings import SourceScore


def score_sources(fit: FitSession, features: Sequence[Tensor]) -> tuple[SourceScore, ...]:
    """Score each source's features (N, D) on the training part."""
    labels = fit.labels[fit.train_rows]
    scores: list[SourceScore] = []
    with fit.timed("source scores"):
        for of_source in features:
            fit.checkpoint()
            f = of_source[fit.train_rows]
            scores.append(
                SourceScore(
                    h_score=float(h_score(f, labels)),
                    h_score_adjusted=float(
                        adjusted_h_score(f, labels, shrinkage=fit.options.shrinkage)
                    ),
                    logme=log_maximum_evidence(f, labels, fit.should_stop),
                )
            )
    return tuple(scores)
