"""Which candidate `hgprompt` serves.

On a few held-out images the best of M + 3 candidates is often best by luck (docs/results.md has
figures). So only four compete at first: the learned ensemble, no prompt, the uniform mean, and the
one source of the highest LogME, which is picked on the training part alone. Of these the one with
the lowest cross-fitted log-loss over all N images is taken; a log-loss tells close candidates apart
on fewer images than an accuracy does. It is left for another candidate only if that one's accuracy
is better beyond the interval of the paired difference: of 95 % for all others together
(Bonferroni), or among many equals one would mostly be better by luck.

The learned weights and LogME's pick have seen the labels of the training part, which favours them
by what M - 1 numbers, or a choice among M, can learn.
"""

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional

from ensemble.candidates import Candidate, ranked
from ensemble.class_head import of_known_class
from ensemble.leaderboard import paired_difference


def choose(
    favoured: Sequence[Candidate], candidates: Sequence[Candidate], labels: Tensor
) -> Candidate:
    """Return the favoured candidate of the lowest log-loss, or one that is clearly better.

    Args:
        favoured: Those that compete by log-loss; of equals the first is taken.
        candidates: With all of these but itself the winner is compared.
        labels: (N,), of all images of the fit.
    """
    winner = lowest_log_loss(favoured, labels)
    others = [each for each in candidates if each is not winner]
    confidence = 1 - 0.05 / max(1, len(others))
    better = [each for each in others if _is_better(each, winner, labels, confidence)]
    return ranked(better)[0] if better else winner


def lowest_log_loss(favoured: Sequence[Candidate], labels: Tensor) -> Candidate:
    """Return the candidate of the lowest cross-fitted log-loss, of equals the first."""
    return min(favoured, key=lambda candidate: cross_fitted_log_loss(candidate, labels))


def cross_fitted_log_loss(candidate: Candidate, labels: Tensor) -> float:
    """In nats, each image predicted by a head that has not seen its fold.

    Over all images (N,) but the only ones of their class, each of which would cost thousands of
    nats divided by the temperature: of two candidates the less confident one would always be lower.
    """
    known = of_known_class(labels)
    return float(functional.cross_entropy(candidate.head.held_out_logits[known], labels[known]))


def _is_better(one: Candidate, other: Candidate, labels: Tensor, confidence: float) -> bool:
    """Whether the accuracy is higher beyond the interval of the paired difference.

    Over the same images as the log-loss.
    """
    known = of_known_class(labels)
    if not known.any():
        return False
    logits = (one.head.held_out_logits[known], other.head.held_out_logits[known])
    return paired_difference(*logits, labels[known], confidence=confidence)[1] > 0


def after_tuning(chosen: Candidate, candidates: Sequence[Candidate]) -> Candidate:
    """Return the tuned candidate if it is at least as good held out as the one it started from."""
    tuned = [candidate for candidate in candidates if candidate.standing.tuned]
    return ranked([*tuned, chosen])[0]
