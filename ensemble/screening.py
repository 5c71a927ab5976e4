"""Which of many sources are worth a full look: a cheap score on a few images.

A fit costs a forward pass an image and source. Of hundreds of sources, all but the best few are
dropped by their adjusted H-score on a small stratified part of the training images.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ensemble.fit_session import FitSession
from ensemble.hscore import adjusted_h_score

SCREENING_IMAGES = 128
IMAGES_A_CLASS = 4
"""Room for each class: one image tells nothing of the spread within its class."""


@dataclass(frozen=True)
class Screening:
    """Which sources were kept, in the order in which they were given.

    Attributes:
        kept: Indices of the kept sources.
        scores: Adjusted H-score of every source.
        num_images: Training images that were looked at.
    """

    kept: tuple[int, ...]
    scores: tuple[float, ...]
    num_images: int


def screen_sources(fit: FitSession) -> Screening | None:
    """Score the sources of a fit and keep `max_sources`; None if there are no more than that."""
    M = len(fit.sources)
    if fit.options.max_sources >= M:
        return None
    rows = screening_rows(fit.labels[fit.train_rows], SCREENING_IMAGES)
    rows = fit.train_rows[rows]
    features = fit.features_of("screening", list(fit.sources.stored), rows)
    with fit.timed("screening"):
        scores = [
            float(adjusted_h_score(f, fit.labels[rows], shrinkage=fit.options.shrinkage))
            for f in features
        ]
    best = sorted(range(M), key=lambda i: -scores[i])[: fit.options.max_sources]
    return Screening(tuple(sorted(best)), tuple(scores), len(rows))


def screening_rows(labels: Tensor, limit: int) -> Tensor:
    """Return at most `limit` rows of labels (N,), as even over the classes as there are images.

    Of more classes than `limit` has room for, those with the most images: where every class has one
    image the features' spread is all between classes, and every source scores 0.
    """
    _, class_of_row, counts = labels.unique(return_inverse=True, return_counts=True)
    largest = counts.argsort(descending=True, stable=True)[: limit // IMAGES_A_CLASS]
    rank = torch.full_like(labels, len(labels))  # of a row within its class
    for index in largest.tolist():
        members = torch.nonzero(class_of_row == index).flatten()
        rank[members] = torch.arange(len(members))
    order = rank.argsort(stable=True)[: min(limit, int(counts[largest].sum()))]
    return order.sort().values
