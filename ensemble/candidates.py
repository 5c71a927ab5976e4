"""Candidates of a fit: ways to make the prompt, with all that serving one needs."""

from dataclasses import dataclass

from torch import Tensor

from ensemble.class_head import ClassHead
from ensemble.leaderboard import Standing


@dataclass(frozen=True)
class Candidate:
    """A way to make the prompt.

    Attributes:
        standing: Its place on the leaderboard.
        weights: alpha (M,) of its composite prompt; (0,) if it is no combination of the sources.
        prompt: (L, P, D), P = 0 for no prompt.
        features: Features (N, D) of all images under the prompt.
        head: Class head fitted on all of them.
    """

    standing: Standing
    weights: Tensor
    prompt: Tensor
    features: Tensor
    head: ClassHead


def ranked(candidates: list[Candidate]) -> list[Candidate]:
    """Return the candidates best first: by accuracy, then by log-loss, equals in their order."""
    return sorted(candidates, key=lambda c: (-c.standing.accuracy, c.standing.log_loss))
