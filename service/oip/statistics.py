"""What each model has done in this process, in the form of Triton's statistics extension."""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence

import msgspec

from service.inference.resolver import Served
from service.inference.rows import RowResult
from service.oip.version_statistics import Duration, VersionStatistics

MAX_MODELS = 10_000
"""Versions remembered; past it the one not used for longest is forgotten."""

Keys = Sequence[tuple[str, int]] | None
"""Names and versions whose statistics are asked for; None for all that were used."""

_SNAPSHOTS = msgspec.msgpack.Decoder(list[msgspec.Raw])
_SNAPSHOT = msgspec.msgpack.Decoder(VersionStatistics)


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
        self._versions: OrderedDict[tuple[str, int], VersionStatistics] = OrderedDict()

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
        passes = {(result.queue_s, result.forward_s, result.batch_size) for result in results}
        found = self._of(served.name, served.version)
        found.last_s = self._wall_clock()
        found.rows += len(results)
        found.passes += len(passes)
        for _, pass_s, size in passes:
            found.batches.setdefault(size, Duration()).add(pass_s)
        found.success.add(total_s)
        found.queue.add(queue_s)
        found.compute_input.add(decode_s)
        found.compute_infer.add(forward_s)
        found.compute_output.add(max(0.0, total_s - decode_s - queue_s - forward_s))

    def failed(self, served: Served, *, total_s: float) -> None:
        """Count a request that had no answer, for a version that exists."""
        self._of(served.name, served.version).fail.add(total_s)

    async def collect(self, keys: Keys) -> list[msgspec.Raw]:
        """Return the statistics of some versions, zero where nothing happened.

        Each is a `VersionStatistics` as MessagePack, of this moment, for any thread to read.
        """
        if keys is None:
            found = list(self._versions.values())
        else:
            found = [self._versions.get(key) or VersionStatistics(*key) for key in keys]
        return _SNAPSHOTS.decode(msgspec.msgpack.encode(found))

    def _of(self, name: str, version: int) -> VersionStatistics:
        found = self._versions.setdefault((name, version), VersionStatistics(name, version))
        self._versions.move_to_end((name, version))
        while len(self._versions) > MAX_MODELS:
            self._versions.popitem(last=False)
        return found


def statistics_json(found: Iterable[msgspec.Raw]) -> bytes:
    """Return statistics as the protocol has them; several of one version are added up.

    One version after the other, so that no single step keeps the interpreter from other threads.

    Args:
        found: As `ModelStatistics.collect` returns them.
    """
    versions: dict[tuple[str, int], VersionStatistics] = {}
    for each in map(_SNAPSHOT.decode, found):
        known = versions.setdefault((each.name, each.version), each)
        if known is not each:
            known.add(each)
    documents = b",".join(msgspec.json.encode(each.document()) for each in versions.values())
    return b'{"model_stats":[%b]}' % documents
