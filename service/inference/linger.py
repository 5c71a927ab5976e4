"""How long a stream waits for rows of the clients that it has just answered.

Clients that keep requests in flight send the next ones as soon as they have their answers, but not
all at once: they share the processor with the answering. A stream that took the first one alone
would be busy with it for as long as the others wait, and small batches take more time an image. So
after a pass over several rows a stream waits until as many have come back, while they keep coming.
"""

from dataclasses import dataclass

LIMIT = 0.2
"""Of the time that the last pass took: the most that is waited after it."""

QUIET = 0.05
"""Of the same: that long nobody came, so nobody is waited for any more."""

MAX_S = 0.05
"""The most that is waited even after a pass that took very long, by swapping, say."""


@dataclass
class Linger:
    """What a stream waits for after one pass.

    Args:
        num_rows: Of the pass that has ended; after one of a single row nothing is waited for.
        pass_s: How long it took.
        ended_s: When it ended.
    """

    num_rows: int
    pass_s: float
    ended_s: float

    def __post_init__(self) -> None:
        """Begin with an empty queue."""
        self._seen = 0
        self._came_s = self.ended_s

    def wait_s(self, num_waiting: int, now_s: float) -> float:
        """Return how long to wait for more rows; 0 if those that wait are to be taken now.

        Args:
            num_waiting: Rows in the queue, at least one.
            now_s: On the clock of `ended_s`.
        """
        if self.num_rows == 1 or num_waiting >= self.num_rows:
            return 0.0
        if num_waiting != self._seen:
            self._seen, self._came_s = num_waiting, now_s
        limit_s = min(LIMIT * self.pass_s, MAX_S)
        until_s = min(self.ended_s + limit_s, self._came_s + QUIET * self.pass_s)
        return max(0.0, until_s - now_s)
