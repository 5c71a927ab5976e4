"""Which candidate `hgprompt` serves: the learned ensemble, unless a simpler one is clearly better.

On a few held-out images the best of M + 2 simple candidates is often best by luck
(docs/method.md has figures). So the learned ensemble, which is one candidate and not the best of
many, is left only for a simpler one that beats it beyond the 95 % interval of the paired
difference. The comparison uses the cross-fitted predictions of all N images; the learned weights
have seen the labels of the training part, which favours them by what M - 1 numbers can learn.
"""

from collections.abc import Sequence

from torch import Tensor

from ensemble.candidates import Candidate, ranked
from ensemble.leaderboard import paired_difference


def choose(learned: Candidate, simple: Sequence[Candidate], labels: Tensor) -> Candidate:
    """Return the learned candidate, or the best simple one that is better beyond chance.

    Args:
        learned: The learned ensemble.
        simple: What it is compared with.
        labels: (N,), of all images of the fit.
    """
    better = [
        candidate
        for candidate in simple
        if paired_difference(candidate.head.held_out_logits, learned.head.held_out_logits, labels)[
            1
        ]
        > 0
    ]
    return ranked(better)[0] if better else learned


def after_tuning(chosen: Candidate, candidates: Sequence[Candidate]) -> Candidate:
    """Return the tuned candidate if it is at least as good held out as the one it started from."""
    tuned = [candidate for candidate in candidates if candidate.standing.tuned]
    return ranked([*tuned, chosen])[0]
