"""How two threads keep one GPU busy.

A GPU runs one batch after another. Between two of them it would wait for the processor: for
results to be handed out, rows to be chosen, pixels to be laid out. So while it computes the batch
of one thread, the other chooses the next, has it laid out and queued behind. It does so late, in
the second half of the pass that runs, or once a full batch waits: rows that come in time share a
batch, and larger ones take less time an image.
"""

from dataclasses import dataclass

from service.inference.streams import Later, Share, Waiting

NUM_STREAMS = 2
"""One whose batch the GPU computes, one that has the next ready."""

LEAD = 0.5
"""Share of a pass that is left when the next batch is chosen."""

RISE = 0.1
"""By which an estimate follows a pass that took longer: one may have had to be captured."""


@dataclass(frozen=True)
class _Running:
    """A batch that the GPU has, or is about to get."""

    num_rows: int
    given_s: float


class GpuStreams:
    """The `Streams` of a GPU."""

    num_streams = NUM_STREAMS
    lingers = False  # whoever comes back during a pass is in time for the next

    def __init__(self) -> None:
        self._running: dict[int, _Running] = {}
        self._ended_s = float("-inf")
        self._pass_s: dict[int, float] = {}  # by the binary logarithm of the rows, rounded up

    def turn(self, stream: int, waiting: Waiting, now_s: float) -> Share | Later:  # noqa: ARG002
        """See `Streams`: all rows that wait, at once if the GPU is idle."""
        everything = Share(waiting.num_rows, exclusive=False)
        missing = waiting.largest - waiting.num_rows
        if not self._running or missing <= 0:
            return everything
        running = next(iter(self._running.values()))
        pass_s = self._pass_s.get(_size(running.num_rows), 0.0)
        left_s = self._began_s(running) + pass_s - now_s
        if left_s <= LEAD * pass_s:
            return everything
        return Later(left_s - LEAD * pass_s, missing)

    def start(self, stream: int, share: Share, num_rows: int, now_s: float) -> None:  # noqa: ARG002
        """See `Streams`."""
        self._running[stream] = _Running(num_rows, now_s)

    def computed(self, stream: int, now_s: float, *, failed: bool) -> bool:
        """See `Streams`: the GPU is free for the next batch."""
        running = self._running.pop(stream, None)
        if running is None:
            return False
        if not failed:
            took_s, size = now_s - self._began_s(running), _size(running.num_rows)
            before_s = self._pass_s.get(size, took_s)
            self._pass_s[size] = min(took_s, before_s + RISE * (took_s - before_s))
        self._ended_s = now_s
        return True

    def release(self, stream: int) -> bool:
        """See `Streams`: of a batch whose rows were all late there are no results."""
        return self._running.pop(stream, None) is not None

    def _began_s(self, running: _Running) -> float:
        """When the GPU could begin with a batch: once it was there and the one before done."""
        return max(running.given_s, self._ended_s)


def _size(num_rows: int) -> int:
    return (num_rows - 1).bit_length()
