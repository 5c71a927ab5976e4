"""Which of many sources are worth a full look: a cheap score on a few images.

A fit costs a forward pass an image and source. Of hundreds of sources, all but the best few are
dropped by their adjusted H-score on a small stratified part of the training images. Where they are
very many, most are dropped on a quarter of these images (successive halving: Jamieson and Talwalkar
2016, "Non-stochastic Best Arm Identification and Hyperparameter Optimization", AISTATS, here in two
rounds).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ensemble.fit_session import FitSession
from ensemble.hscore import adjusted_h_score

SCREENING_IMAGES = 128
FIRST_IMAGES = 32
"""Images of the first look, where there are more sources than fit into the second."""
SECOND_LOOK = 4
"""So many times `max_sources` are looked at again, on all images of the screening."""
IMAGES_A_CLASS = 4
"""Room for each class: one image tells nothing of the spread within its class."""


@dataclass(frozen=True)
class Look:
    """One round of the screening.

    Attributes:
        num_images: Training images that were looked at.
        scores: Adjusted H-score on them of each source that was still there, by its index.
        kept: Indices of the sources that were kept, ascending.
    """

    num_images: int
    scores: dict[int, float]
    kept: tuple[int, ...]


@dataclass(frozen=True)
class Screening:
    """Which sources were kept, in the order in which they were given, and why.

    Attributes:
        looks: One, or two of which the first, on fewer images, dropped most of the sources.
    """

    looks: tuple[Look, ...]

    @property
    def kept(self) -> tuple[int, ...]:
        """Indices of the kept sources."""
        return self.looks[-1].kept

    @property
    def scores(self) -> tuple[float, ...]:
        """Adjusted H-score of every source, in the last look at it."""
        latest: dict[int, float] = {}
        for look in self.looks:
            latest |= look.scores
        return tuple(latest[i] for i in sorted(latest))

    @property
    def num_images(self) -> int:
        """Training images that the kept sources were scored on."""
        return self.looks[-1].num_images


def screen_sources(fit: FitSession, prompts: Sequence[Tensor]) -> Screening | None:
    """Score source prompts and keep `max_sources`; None if there are no more than that.

    The images are drawn with the seed of the fit; those of a first look are among the others.

    Args:
        fit: Its own sources are not looked at.
        prompts: M source prompts, each (L, P, D).
    """
    most, everyone = fit.options.max_sources, range(len(prompts))
    if most >= len(prompts):
        return None
    train = fit.labels[fit.train_rows]
    rows = fit.train_rows[screening_rows(train, SCREENING_IMAGES, fit.seed)]
    if len(prompts) <= SECOND_LOOK * most or len(rows) <= FIRST_IMAGES:
        features = fit.features_of("screening", prompts, rows)
        return Screening((_look(fit, dict(zip(everyone, features, strict=True)), rows, most),))
    among = screening_rows(fit.labels[rows], FIRST_IMAGES, fit.seed)
    few = fit.features_of("screening", prompts, rows[among])
    first = _look(fit, dict(zip(everyone, few, strict=True)), rows[among], SECOND_LOOK * most)
    rest = torch.ones(len(rows), dtype=torch.bool).index_fill(0, among, False)
    more = fit.features_of("screening again", [prompts[i] for i in first.kept], rows[rest])
    features = {i: torch.cat((few[i], f)) for i, f in zip(first.kept, more, strict=True)}
    second = _look(fit, features, torch.cat((rows[among], rows[rest])), most)
    return Screening((first, second))


def _look(fit: FitSession, features: dict[int, Tensor], rows: Tensor, most: int) -> Look:
    """Keep the `most` sources of the highest scores, given the features (n, D) of `rows` (n,)."""
    with fit.timed("screening"):
        scores: dict[int, float] = {}
        for i, of_source in features.items():
            fit.checkpoint()
            score = adjusted_h_score(of_source, fit.labels[rows], shrinkage=fit.options.shrinkage)
            scores[i] = float(score)
    best = sorted(scores, key=lambda i: -scores[i])[:most]
    return Look(len(rows), scores, tuple(sorted(best)))


def screening_rows(labels: Tensor, limit: int, seed: int) -> Tensor:
    """Draw at most `limit` rows of labels (N,), as even over the classes as there are images.

    Of more classes than `limit` has room for, those with the most images, of equals at random:
    where every class has one image the features' spread is all between classes, and every source
    scores 0.
    """
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    _, class_of_row, counts = labels[shuffled].unique(return_inverse=True, return_counts=True)
    drawn = torch.stack([(class_of_row == c).int().argmax() for c in range(len(counts))])
    at_random = drawn.argsort()  # the classes in the order in which the first of each was drawn
    largest = at_random[counts[at_random].argsort(descending=True, stable=True)]
    largest = largest[: limit // IMAGES_A_CLASS]
    rank = torch.full_like(labels, len(labels))  # of a drawn row within its class
    for index in largest.tolist():
        members = torch.nonzero(class_of_row == index).flatten()
        rank[members] = torch.arange(len(members))
    order = rank.argsort(stable=True)[: min(limit, int(counts[largest].sum()))]
    return shuffled[order].sort().values
