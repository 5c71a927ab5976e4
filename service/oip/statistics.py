"""What each model has done in this process, in the form of Triton's statistics extension."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from service.inference.resolver import Served
from service.inference.rows import RowResult

MAX_MODELS = 10_000
"""Versions remembered; past it the one not used for longest is forgotten."""

_NS = 1_000_000_000


@dataclass(slots=True)
class _Duration:
    count: int = 0
    seconds: float = 0.0

    def add(self, seconds: float, count: int = 1) -> None:
        self.count += count
        self.seconds += seconds

    def document(self) -> dict[str, int]:
        return {"count": self.count, "ns": round(self.seconds * _NS)}


class _VersionStatistics:
    def __init__(self) -> None:
        self.last_s = 0.0
        self.rows = 0
        self.passes = 0
        self.success = _Duration()
        self.fail = _Duration()
        self.queue = _Duration()
        self.compute_input = _Duration()
        self.compute_infer = _Duration()
        self.compute_output = _Duration()
        self.batches: dict[int, _Duration] = {}  # forward passes by their size

    def document(self, name: str, version: int) -> dict[str, Any]:
        durations = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output")
        return {
            "name": name,
            "version": str(version),
            "last_inference": round(1000 * self.last_s),
            "inference_count": self.rows,
            "execution_count": self.passes,
            "inference_stats": {key: getattr(self, key).document() for key in durations},
            "batch_stats": [_batch(*each) for each in sorted(self.batches.items())],
        }


def _batch(size: int, passes: _Duration) -> dict[str, Any]:
    """The entry of `batch_stats` for a size; what surrounds a pass is a request's, not a pass's."""
    nothing = _Duration().document()
    return {
        "batch_size": size,
        "compute_input": nothing,
        "compute_infer": passes.document(),
        "compute_output": nothing,
    }


class ModelStatistics:
    """Counts inference requests by ensemble version. Used on the event loop only.

    `inference_count` counts rows, `execution_count` the forward passes that each request took part
    in; a pass that serves two requests counts for both. `batch_stats` are these passes by their
    size, which counts the rows of all models, as does a pass's duration.

    Args:
        wall_clock: Seconds since the epoch.
    """

    def __init__(self, wall_clock: Callable[[], float]) -> None:
        self._wall_clock = wall_clock
        self._versions: OrderedDict[tuple[str, int], _VersionStatistics] = OrderedDict()

    def succeeded(
        self, served: Served, results: Sequence[RowResult], *, decode_s: float, total_s: float
    ) -> None:
        """Count a request that was answered; what took neither decoding, queue nor pass is output.

        Args:
            served: What answered.
            results: One for each row.
            decode_s: Until its images were decoded.
            total_s: From the end of its body to the end of its computation.
        """
        queue_s = max(result.queue_s for result in results)
        forward_s = max(result.forward_s for result in results)
        found = self._of(served.name, served.version)
        found.last_s = self._wall_clock()
        found.rows += len(results)
        passes = {(result.queue_s, result.forward_s, result.batch_size) for result in results}
        found.passes += len(passes)
        for _, pass_s, size in passes:
            found.batches.setdefault(size, _Duration()).add(pass_s)
        found.success.add(total_s)
        found.queue.add(queue_s)
        found.compute_input.add(decode_s)
        found.compute_infer.add(forward_s)
        found.compute_output.add(max(0.0, total_s - decode_s - queue_s - forward_s))

    def failed(self, served: Served, *, total_s: float) -> None:
        """Count a request that had no answer, for a version that exists."""
        self._of(served.name, served.version).fail.add(total_s)

    def document(self, versions: Sequence[tuple[str, int]] | None = None) -> dict[str, Any]:
        """Return the statistics of some versions, zero where nothing happened; None for all."""
        keys = list(self._versions) if versions is None else versions
        empty = _VersionStatistics()
        return {
            "model_stats": [self._versions.get(key, empty).document(*key) for key in keys],
        }

    def _of(self, name: str, version: int) -> _VersionStatistics:
        found = self._versions.setdefault((name, version), _VersionStatistics())
        self._versions.move_to_end((name, version))
        while len(self._versions) > MAX_MODELS:
            self._versions.popitem(last=False)
        return found
