"""How the execution streams of an engine take turns, and how those of a CPU share its cores.

A stream is a thread that runs one forward pass after another. torch divides every step of a pass
evenly between its threads, and all wait for the slowest: a core that is taken away for a
millisecond, by HTTP or by decoding, costs every thread that millisecond. So under load each stream
computes on one core by itself. A lone image is done sooner with all cores: it gets them if nothing
else is under way, and whoever comes meanwhile waits for it.

Those of a GPU are in `gpu_streams`.
"""

from dataclasses import dataclass
from typing import Protocol

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


@dataclass(frozen=True)
class Later:
    """When a stream whose turn it is not looks again. It does whenever another's turn has ended.

    Attributes:
        seconds: After so long at the latest; None for no limit.
        more_rows: Once so many more rows have come.
    """

    seconds: float | None
    more_rows: int


@dataclass(frozen=True)
class Waiting:
    """What a stream that asks for rows finds.

    Attributes:
        num_rows: Rows that wait, at least one.
        largest: Rows of the largest batch that may be made of them.
        came_to_idle: Whether the stream waited for them, rather than they for the stream.
    """

    num_rows: int
    largest: int
    came_to_idle: bool


UNTIL_CALLED = Later(seconds=None, more_rows=1)
"""Whenever anything happens."""


class Streams(Protocol):
    """Which streams compute, and whose turn it is. Not thread-safe."""

    @property
    def num_streams(self) -> int:
        """Threads that ask."""
        ...

    @property
    def lingers(self) -> bool:
        """Whether a stream waits for the clients that it has just answered."""
        ...

    def turn(self, stream: int, waiting: Waiting, now_s: float) -> Share | Later:
        """What a free stream may take of the rows that wait, or when it should look again."""
        ...

    def start(self, stream: int, share: Share, num_rows: int, now_s: float) -> None:
        """A stream begins a pass over so many rows."""
        ...

    def computed(self, stream: int, now_s: float, *, failed: bool) -> bool:
        """The results of a stream's pass are there; whether the others should look again."""
        ...

    def release(self, stream: int) -> bool:
        """A stream is free, and its results delivered; whether the others should look again."""
        ...


class CoreStreams:
    """The `Streams` of a CPU: as many as it has cores.

    Args:
        num_streams: Cores to compute on.
    """

    lingers = True

    def __init__(self, num_streams: int) -> None:
        self._num_streams = num_streams
        self._busy: set[int] = set()
        self._exclusive = False

    @property
    def num_streams(self) -> int:
        """See `Streams`."""
        return self._num_streams

    def start(self, stream: int, share: Share, num_rows: int, now_s: float) -> None:  # noqa: ARG002
        """See `Streams`."""
        self._busy.add(stream)
        self._exclusive = share.exclusive

    def computed(self, stream: int, now_s: float, *, failed: bool) -> bool:  # noqa: ARG002
        """See `Streams`: delivering takes a core too."""
        return False

    def release(self, stream: int) -> bool:
        """See `Streams`."""
        self._busy.discard(stream)
        was_exclusive, self._exclusive = self._exclusive, self._exclusive and bool(self._busy)
        return was_exclusive and not self._exclusive

    def turn(self, stream: int, waiting: Waiting, now_s: float) -> Share | Later:  # noqa: ARG002
        """See `Streams`: the rows are divided between the cores that are free."""
        if self._exclusive:
            return UNTIL_CALLED
        num_waiting = waiting.num_rows
        alone = not self._busy and num_waiting < self._num_streams
        if alone and stream != FIRST_STREAM:
            return UNTIL_CALLED
        num_free = self._num_streams - len(self._busy)
        if alone and waiting.came_to_idle:
            return Share(num_waiting, exclusive=True)
        return Share(-(-num_waiting // num_free), exclusive=False)
