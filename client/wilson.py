"""The uncertainty of an accuracy."""

from math import sqrt

Z_95 = 1.959963984540054  # the normal distribution's 97.5 % quantile


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """The 95 % score interval of a proportion.

    With p = successes / trials, n = trials and z the normal quantile:
    (p + z²/2n ± z·sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n).

    Args:
        successes: At least 0, at most `trials`.
        trials: At least 1.

    Returns:
        (low, high) within [0, 1].

    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference".
    """
    if not 0 <= successes <= trials or trials < 1:
        raise ValueError(f"{successes} successes of {trials} trials")
    p, z2 = successes / trials, Z_95**2
    centre = p + z2 / (2 * trials)
    half_width = Z_95 * sqrt(p * (1 - p) / trials + z2 / (4 * trials**2))
    scale = 1 + z2 / trials
    # The limits at 0 and 1 are exact; only rounding would miss them.
    low = (centre - half_width) / scale if successes else 0.0
    high = (centre + half_width) / scale if successes < trials else 1.0
    return low, high
