"""Keys that are numbered without gaps, of which the last one has to be found."""

from collections.abc import Callable


def last_number(exists: Callable[[int], bool], start: int = 0) -> int:
    """Return the last number that exists, or `start` if none after it does.

    It looks ahead in doubling steps, then halves: one look if `start` is the last, else about
    2 log2(n) for n numbers after it.

    Args:
        exists: Whether there is such a number.
        start: One that exists, or 0.
    """
    low, step = start, 1
    while exists(low + step):
        low, step = low + step, 2 * step
    high = low + step
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if exists(middle) else (low, middle)
    return low
