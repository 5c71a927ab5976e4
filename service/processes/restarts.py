"""How often a child may fail, and how long to wait before it is started again."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class RestartPolicy:
    """When to give up.

    Attributes:
        max_failures: So many within the window are too many.
        window_s: How long a failure is remembered.
        first_delay_s: Pause after the first failure; doubles with each one remembered.
    """

    max_failures: int = 5
    window_s: float = 300.0
    first_delay_s: float = 0.1


class Restarts:
    """The failures of one child.

    Args:
        policy: When to give up.
        clock: Monotonic seconds.
    """

    def __init__(self, policy: RestartPolicy, clock: Callable[[], float]) -> None:
        self._policy = policy
        self._clock = clock
        self._failures_s: deque[float] = deque()

    def failed(self) -> float | None:
        """Note a failure; returns the seconds to wait, None to give up."""
        now_s = self._clock()
        self._failures_s.append(now_s)
        while self._failures_s[0] <= now_s - self._policy.window_s:
            self._failures_s.popleft()
        count = len(self._failures_s)
        if count >= self._policy.max_failures:
            return None
        return self._policy.first_delay_s * 2 ** (count - 1)
