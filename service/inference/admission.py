"""How much classification work may be in the house at once."""

from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager

from service.inference.errors import QueueFullError

ENSEMBLE_SHARE = 4
"""An ensemble may hold this many times the room that is left (Choudhury and Hahne 1998, dynamic
thresholds): alone it gets 4/5 of the queue, so the others always find room."""

MIN_RETRY_S = 1.0
MAX_RETRY_S = 60.0


class Admission:
    """Counts the images between admission and answer. Used on the event loop only.

    Args:
        max_images: Bound on images decoding, queued and running.
        max_bytes: Bound on the bodies of the requests they came in.
    """

    def __init__(self, *, max_images: int, max_bytes: int) -> None:
        self._max_images = max_images
        self._max_bytes = max_bytes
        self._bytes = 0
        self._images: Counter[str] = Counter()
        self._seconds_per_image = 0.0

    @property
    def num_images(self) -> int:
        """Images between admission and answer."""
        return self._images.total()

    @contextmanager
    def images(self, name: str, count: int) -> Generator[None]:
        """Hold room for `count` images of an ensemble.

        Raises:
            QueueFullError: The queue, or the ensemble's share of it, is used up.
        """
        room = self._max_images - self.num_images
        wanted = self._images[name] + count
        if count > room or wanted > ENSEMBLE_SHARE * room:
            raise QueueFullError(
                f"{self.num_images} images are waiting, {self._images[name]} of them for {name}; "
                f"{count} more exceed the limit of {self._max_images} (max_queue)",
                retry_after_s=self._retry_after_s(),
            )
        self._images[name] = wanted
        try:
            yield
        finally:
            self._images[name] -= count
            if not self._images[name]:
                del self._images[name]

    @contextmanager
    def body(self) -> Generator["BodyRoom"]:
        """Hold the room that a request's body takes while it is in memory."""
        room = BodyRoom(self)
        try:
            yield room
        finally:
            self._bytes -= room.num_bytes

    def take_bytes(self, num_bytes: int) -> None:
        """Count bytes that arrived, on behalf of `BodyRoom`.

        Raises:
            QueueFullError: The bodies in memory would exceed the limit.
        """
        if self._bytes + num_bytes > self._max_bytes:
            raise QueueFullError(
                f"{self._bytes} bytes of images are in memory; {num_bytes} more exceed the limit "
                f"of {self._max_bytes} (max_inflight_bytes)",
                retry_after_s=self._retry_after_s(),
            )
        self._bytes += num_bytes

    def observe(self, num_images: int, seconds: float) -> None:
        """Learn the engine's pace from a finished batch; it decides what Retry-After says."""
        pace = seconds / num_images
        self._seconds_per_image += 0.1 * (pace - self._seconds_per_image)

    def _retry_after_s(self) -> float:
        wait_s = self.num_images * self._seconds_per_image
        return min(MAX_RETRY_S, max(MIN_RETRY_S, wait_s))


class BodyRoom:
    """What one request's body takes of the room; grows as the body arrives."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self.num_bytes = 0

    def add(self, num_bytes: int) -> None:
        """Take room for bytes that arrived; raises `QueueFullError`."""
        self._admission.take_bytes(num_bytes)
        self.num_bytes += num_bytes
