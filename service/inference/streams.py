"""How the execution streams of an engine share the processor's cores.

A stream is a thread that runs one forward pass after another. torch divides every step of a pass
evenly between its threads, and all wait for the slowest: a core that is taken away for a
millisecond, by HTTP or by decoding, costs every thread that millisecond. So under load each stream
computes on one core by itself. A lone image is done sooner with all cores: it gets them if nothing
else is under way, and whoever comes meanwhile waits for it.
"""

from dataclasses import dataclass

FIRST_STREAM = 0
"""The only one that may compute on all cores, because each thread that does keeps helpers."""


@dataclass(frozen=True)
class Share:
    """What a stream may start.

    Attributes:
        max_rows: So many of the rows that wait.
        exclusive: It has the machine to itself until it is released.
    """

    max_rows: int
    exclusive: bool


class Streams:
    """Which streams compute. Not thread-safe.

    Args:
        num_streams: One for a GPU, which runs one pass after another.
    """

    def __init__(self, num_streams: int) -> None:
        self._num_streams = num_streams
        self._busy: set[int] = set()
        self._exclusive = False

    def start(self, stream: int, share: Share) -> None:
        """A stream begins a pass."""
        self._busy.add(stream)
        self._exclusive = share.exclusive

    def release(self, stream: int) -> bool:
        """A stream's pass has ended, if it had one; whether others waited for it to end."""
        self._busy.discard(stream)
        was_exclusive, self._exclusive = self._exclusive, self._exclusive and bool(self._busy)
        return was_exclusive and not self._exclusive

    def share(self, stream: int, num_waiting: int, *, came_to_idle: bool) -> Share | None:
        """What a free stream may take of the rows that wait; None if it is not its turn.

        Args:
            stream: Which.
            num_waiting: Rows, at least one.
            came_to_idle: Whether the stream waited for them, rather than they for the stream.
        """
        if self._exclusive:
            return None
        alone = not self._busy and num_waiting < self._num_streams
        if alone and stream != FIRST_STREAM:
            return None
        num_free = self._num_streams - len(self._busy)
        if alone and came_to_idle:
            return Share(num_waiting, exclusive=True)
        return Share(-(-num_waiting // num_free), exclusive=False)
