"""Wilson's interval of a proportion; free of torch.

`scipy.stats.binomtest` gives the same numbers, but its import takes 87 MB of every process that
draws reports.
"""

import math

_Z95 = 1.959963984540054


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """Return the 95 % score interval of a proportion (Wilson 1927)."""
    share = successes / trials
    denominator = 1 + _Z95**2 / trials
    center = (share + _Z95**2 / (2 * trials)) / denominator
    variance = share * (1 - share) / trials + _Z95**2 / (4 * trials**2)
    half = _Z95 * math.sqrt(variance) / denominator
    return max(0.0, center - half), min(1.0, center + half)
