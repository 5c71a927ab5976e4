"""Image bytes to pixels, on a bounded pool of threads beside the event loop.

Ensembles share the threads by processor time: the one whose images have taken the least goes next,
so one that sends images of 20 megapixels does not hold up another's small ones. Time that a thread
waits for a busy machine is nobody's: charged to whoever had it, it would let him wait once more.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from images.decoding import ImageLimits, decode_image
from images.errors import ImageDecodeError
from images.preprocessing import Preprocessing, preprocess
from service.inference.fair_queue import FairQueue

logger = logging.getLogger(__name__)

PACE = 0.1
"""Weight of the newest image in the running mean that stands for the cost of the next one."""


@dataclass(frozen=True)
class DecodeReport:
    """One image, for the metrics.

    Attributes:
        wait_s: How long it waited for a thread.
        decode_s: Decoding and resizing it.
    """

    wait_s: float
    decode_s: float


@dataclass(eq=False)
class _Job:
    """An image that waits; its bytes are let go as soon as nobody wants it."""

    data: bytes
    submitted_s: float
    result: Future[np.ndarray] = field(default_factory=Future[np.ndarray])

    @property
    def cancelled(self) -> bool:
        return self.result.cancelled()


class DecodePool:
    """Decodes and resizes images; Pillow releases the interpreter lock meanwhile.

    Args:
        num_threads: Images decoded at a time.
        limits: What an image may be.
        preprocessing: The backbone's evaluation transform.
        report: Called after each image, on the thread that decoded it.
    """

    def __init__(
        self,
        num_threads: int,
        limits: ImageLimits,
        preprocessing: Preprocessing,
        *,
        report: Callable[[DecodeReport], None],
    ) -> None:
        self._executor = ThreadPoolExecutor(num_threads, thread_name_prefix="decode")
        self._limits = limits
        self._preprocessing = preprocessing
        self._report = report
        self._lock = threading.Lock()
        self._queue: FairQueue[_Job] = FairQueue()
        self._level = 0.0
        self._mean_s = 0.0

    @property
    def num_waiting(self) -> int:
        """Images that wait for a thread."""
        with self._lock:
            return self._queue.num_waiting

    async def pixels(self, data: bytes, tenant: str) -> np.ndarray:
        """Return (3, H, W) uint8; a caller that is cancelled gives up its place.

        Args:
            data: The encoded image.
            tenant: Whose image it is: tenants share the threads by processor time.

        Raises:
            ImageDecodeError: The bytes are not an image within the limits.
        """
        job = _Job(data, time.monotonic())
        with self._lock:
            self._queue.push(job, tenant, self._level)
        # One call for each image, not of each image: it takes whichever is next by then.
        self._executor.submit(self._run_next)
        try:
            return await asyncio.wrap_future(job.result)
        finally:
            job.data = b""

    def close(self) -> None:
        """Give up what waits, and end the threads once they are done."""
        with self._lock:
            while self._queue.least_served is not None:
                self._queue.pop()[1].result.cancel()
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _run_next(self) -> None:
        with self._lock:
            taken = self._take()
            queue, charged_s = self._queue, self._mean_s
            if queue.least_served is None:  # nothing waits: forget who had how much
                self._queue, self._level = FairQueue(), 0.0
        if taken is None:
            return
        tenant, job = taken
        started_s, started_cpu_s = time.monotonic(), time.thread_time()
        self._run(job)
        decode_s, cpu_s = time.monotonic() - started_s, time.thread_time() - started_cpu_s
        with self._lock:
            queue.charge(tenant, cpu_s - charged_s)
            self._mean_s += PACE * (cpu_s - self._mean_s)
        self._report(DecodeReport(started_s - job.submitted_s, decode_s))

    def _take(self) -> tuple[str, _Job] | None:
        """The image whose turn it is, charged with what images cost on average."""
        while (level := self._queue.least_served) is not None:
            self._level = level
            tenant, job = self._queue.pop(self._mean_s)
            if job.result.set_running_or_notify_cancel():
                return tenant, job
        return None

    def _run(self, job: _Job) -> None:
        try:
            pixels = preprocess(decode_image(job.data, self._limits), self._preprocessing)
        except BaseException as error:
            if not isinstance(error, ImageDecodeError | MemoryError):
                logger.exception("decoding an image failed")
            # The frames in its traceback hold the image, and the job, which holds the error: until
            # the garbage collector came by.
            error.__cause__ = error.__context__ = None
            job.result.set_exception(error.with_traceback(None))
        else:
            job.result.set_result(pixels)
