"""Counts and durations of one ensemble version, in the form of Triton's statistics extension."""

from typing import Any

import msgspec

_NS = 1_000_000_000


class Duration(msgspec.Struct, gc=False):
    """How often something happened, and how long it took in all."""

    count: int = 0
    seconds: float = 0.0

    def add(self, seconds: float, count: int = 1) -> None:
        """Count it once, or `count` times that took so long in all."""
        self.count += count
        self.seconds += seconds

    def document(self) -> dict[str, int]:
        """As the protocol has it."""
        return {"count": self.count, "ns": round(self.seconds * _NS)}


DURATIONS = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output")


def _none() -> Duration:
    return Duration()


class VersionStatistics(msgspec.Struct):
    """What one version has done.

    Attributes:
        last_s: When it last answered, seconds since the epoch; 0 if never.
        rows: Rows answered.
        passes: Forward passes that each request took part in.
        batches: The same passes by their size, rows of other models included.
    """

    name: str
    version: int
    last_s: float = 0.0
    rows: int = 0
    passes: int = 0
    success: Duration = msgspec.field(default_factory=_none)
    fail: Duration = msgspec.field(default_factory=_none)
    queue: Duration = msgspec.field(default_factory=_none)
    compute_input: Duration = msgspec.field(default_factory=_none)
    compute_infer: Duration = msgspec.field(default_factory=_none)
    compute_output: Duration = msgspec.field(default_factory=_none)
    batches: dict[int, Duration] = {}

    def add(self, other: "VersionStatistics") -> None:
        """Add what the same version has done in another process."""
        self.last_s = max(self.last_s, other.last_s)
        self.rows += other.rows
        self.passes += other.passes
        for name in DURATIONS:
            more: Duration = getattr(other, name)
            getattr(self, name).add(more.seconds, more.count)
        for size, more in other.batches.items():
            self.batches.setdefault(size, Duration()).add(more.seconds, more.count)

    def document(self) -> dict[str, Any]:
        """As the protocol has it."""
        return {
            "name": self.name,
            "version": str(self.version),
            "last_inference": round(1000 * self.last_s),
            "inference_count": self.rows,
            "execution_count": self.passes,
            "inference_stats": {name: getattr(self, name).document() for name in DURATIONS},
            "batch_stats": [_batch(size, self.batches[size]) for size in sorted(self.batches)],
        }


def _batch(size: int, passes: Duration) -> dict[str, Any]:
    """An entry of `batch_stats`; what surrounds a pass is a request's, not a pass's."""
    nothing = Duration().document()
    return {
        "batch_size": size,
        "compute_input": nothing,
        "compute_infer": passes.document(),
        "compute_output": nothing,
    }
