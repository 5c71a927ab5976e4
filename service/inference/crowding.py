"""Whether one tenant crowds out others that ask for little.

A batch takes as long for each of its rows as for all of them, and a pass that has begun is not
interrupted. So somebody who fills every batch delays the others although the queue is fair. While
that goes on, shorter batches keep the delay small; they cost some throughput, so they are not the
rule.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping

MEMORY_S = 10.0
"""How long a tenant that asks for nothing still counts: its next image should meet a short pass."""

RATIO = 4.0
"""So many times the rows that the others have waiting, on average, are crowding.

Tenants that ask for the same at random times differ by less: eight that share 64 rows have 8 each,
give or take 3.
"""


class Crowding:
    """Remembers who asked lately. Not thread-safe.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._asked_s: OrderedDict[str, float] = OrderedDict()  # the latest last

    def asked(self, tenant: str) -> None:
        """A tenant asked for something."""
        self._asked_s[tenant] = self._clock()
        self._asked_s.move_to_end(tenant)

    def crowded(self, waiting: Mapping[str, int]) -> bool:
        """Whether one tenant has far more rows waiting than the others that asked lately.

        Args:
            waiting: Rows of each tenant that has any.
        """
        self._forget()
        most = max(waiting.values(), default=0)
        num_unheard = sum(tenant not in self._asked_s for tenant in waiting)
        num_others = len(self._asked_s) + num_unheard - 1
        if most <= RATIO or num_others == 0:
            return False
        of_another = (sum(waiting.values()) - most) / num_others
        return most > RATIO * max(1.0, of_another)

    def _forget(self) -> None:
        until_s = self._clock() - MEMORY_S
        while self._asked_s and next(iter(self._asked_s.values())) < until_s:
            self._asked_s.popitem(last=False)
