"""What a local deployment tells those who started it, and asks them."""

from collections.abc import Callable
from dataclasses import dataclass

from client.child import OnLine


@dataclass(frozen=True)
class Hooks:
    """Where news go. `line` is called from other threads.

    Attributes:
        stage: What is being waited for now.
        note: Something worth a line of its own, such as a restart.
        line: A child's name and a line of its output.
        stop_requests: How often the user has asked to stop: once ends a wait for a child that
            is starting, twice kills what has not ended yet.
    """

    stage: Callable[[str], None]
    note: Callable[[str], None]
    line: OnLine
    stop_requests: Callable[[], int]
