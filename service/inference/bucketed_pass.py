"""The backbone at a few prepared batch sizes, as CUDA graphs replay them.

A batch is laid into the buffers of the smallest bucket that holds it. What lies in the rest of the
bucket from earlier batches is computed too and not looked at: rows do not affect each other.
"""

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ensemble.prompted_vit import PromptedViT
from service.inference.backbone_pass import EagerPass, prompts_of
from service.inference.buckets import bucket_for
from service.inference.rows import BatchKey, Row

logger = logging.getLogger(__name__)

MAX_GRAPHS = 128
"""Prepared combinations of bucket and batch key."""

MAX_STATIC_BYTES = 2_000_000_000
"""Of the buffers of all of them together: those of large prompts take a hundred megabytes each."""

IDLE_S = 60.0
"""A graph that was not used for so long gives way to another. Not sooner: a capture takes several
passes, and more combinations than there is room for would push each other out at every batch."""

RETRY_S = 60.0
"""So long a combination runs as it is after its capture failed, or there was no room for it."""

WARM_UP_PASSES = 3
"""Before a capture, so that libraries choose their kernels outside of it."""


def static_bytes(bucket: int, row: Row) -> int:
    """What a `StaticBatch` of the same arguments takes on the device, without making one."""
    prompt = row.entry.prompt
    return bucket * (row.pixels.nbytes + (0 if prompt is None else prompt.nbytes))


class StaticBatch:
    """Buffers of one bucket, at fixed addresses.

    Args:
        bucket: Rows they hold.
        row: Any row of the batch key; decides shapes and dtype.
        device: The backbone's.
    """

    def __init__(self, bucket: int, row: Row, device: torch.device) -> None:
        dtype = torch.from_numpy(row.pixels[:0]).dtype
        shape = (bucket, *row.pixels.shape)
        self._staging = torch.zeros(shape, dtype=dtype, pin_memory=device.type == "cuda")
        self._staging_array = self._staging.numpy()
        self._copied = torch.cuda.Event(blocking=True) if device.type == "cuda" else None
        self.pixels = torch.zeros(shape, dtype=dtype, device=device)
        self.prompts: Tensor | None = None
        if row.entry.prompt is not None:
            self.prompts = torch.zeros((bucket, *row.entry.prompt.shape), device=device)

    @property
    def num_bytes(self) -> int:
        """What it takes on the device."""
        return self.pixels.nbytes + (0 if self.prompts is None else self.prompts.nbytes)

    def fill(self, rows: list[Row]) -> None:
        """Lay rows into the first places, once what is queued on the device is done with them."""
        if self._copied is not None:
            self._copied.synchronize()  # the pixels of the batch before may not have left yet
        for place, row in enumerate(rows):
            self._staging_array[place] = row.pixels
        self.pixels[: len(rows)].copy_(self._staging[: len(rows)], non_blocking=True)
        if self._copied is not None:
            self._copied.record()
        if self.prompts is not None:
            torch.stack(prompts_of(rows), out=self.prompts[: len(rows)])


Replay = Callable[[], Tensor]
"""Computes the features (bucket, D) of what lies in a static batch."""

Capture = Callable[[PromptedViT, StaticBatch], Replay]


class GraphCapture:
    """Records the kernels of a forward pass, which then start with one call.

    One pool of memory serves all graphs: only one of them runs at a time.
    """

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, vit: PromptedViT, static: StaticBatch) -> Replay:
        """Capture the pass over a static batch."""
        side = torch.cuda.Stream(vit.device)
        side.wait_stream(torch.cuda.current_stream(vit.device))
        with torch.cuda.stream(side):
            for _ in range(WARM_UP_PASSES):
                vit(static.pixels, static.prompts)
        torch.cuda.current_stream(vit.device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # "thread_local": other threads go on copying artifacts meanwhile.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            features = vit(static.pixels, static.prompts)

        def replay() -> Tensor:
            graph.replay()
            return features

        return replay


_Key = tuple[int, BatchKey]
"""A bucket, and what the rows of a pass have in common."""


@dataclass
class Prepared:
    """A pass that was captured, its buffers, and when it was last used."""

    static: StaticBatch
    replay: Replay
    used_s: float


class BucketedPass:
    """Runs the backbone at the size of a bucket. Used on one thread at a time.

    What it returns is overwritten by the next pass, in the order of the device's queue.

    A combination of bucket, prompt shape and dtype is captured when it is first needed; the
    warm-up needs those that are known before the service is ready. Where there is no room for more,
    the one used longest ago gives way, unless that was a short while ago; then the new one runs as
    it is, as it does if it cannot be captured.

    Args:
        vit: The backbone, on its device.
        buckets: Ascending; the last holds the largest batch.
        capture: How a pass is prepared.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        vit: PromptedViT,
        buckets: Sequence[int],
        capture: Capture,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._vit = vit
        self._buckets = tuple(buckets)
        self._capture = capture
        self._eager = EagerPass(vit)
        self._clock = clock
        self._prepared: OrderedDict[_Key, Prepared] = OrderedDict()
        self._retry_s: dict[_Key, float] = {}

    @property
    def num_prepared(self) -> int:
        """Combinations that are captured."""
        return len(self._prepared)

    def __call__(self, rows: list[Row]) -> Tensor:
        """Run the backbone once."""
        bucket = bucket_for(len(rows), self._buckets)
        prepared = self._prepare(bucket, rows[0])
        if prepared is None:
            return self._eager(rows)
        prepared.static.fill(rows)
        return prepared.replay()[: len(rows)]

    def _prepare(self, bucket: int, row: Row) -> Prepared | None:
        key, now_s = (bucket, row.batch_key), self._clock()
        found = self._prepared.get(key)
        if found is not None:
            found.used_s = now_s
            self._prepared.move_to_end(key)
        elif now_s >= self._retry_s.get(key, now_s):
            found = self._captured(bucket, row, now_s)
            if found is None:
                self._retry_s[key] = now_s + RETRY_S
            else:
                self._retry_s.pop(key, None)
                self._prepared[key] = found
        return found

    def _captured(self, bucket: int, row: Row, now_s: float) -> Prepared | None:
        """Prepare a pass; None if it fails, or there is no room for it."""
        try:
            needed_bytes = static_bytes(bucket, row)
            idle = [key for key, each in self._prepared.items() if now_s - each.used_s >= IDLE_S]
            if not self._has_room(needed_bytes, without=idle):
                return None
            while not self._has_room(needed_bytes):
                self._prepared.popitem(last=False)  # used longest ago, so one of the idle ones
            static = StaticBatch(bucket, row, self._vit.device)
            return Prepared(static, self._capture(self._vit, static), now_s)
        except RuntimeError:  # torch's, out of memory among them
            logger.warning("no graph for batches of %d", bucket, exc_info=True)
            return None

    def _has_room(self, needed_bytes: int, without: Collection[_Key] = ()) -> bool:
        """Whether there is room for one more, if the graphs of some keys went."""
        kept = [each for key, each in self._prepared.items() if key not in without]
        taken = sum(each.static.num_bytes for each in kept)
        return len(kept) < MAX_GRAPHS and taken + needed_bytes <= MAX_STATIC_BYTES
