"""How much classification work may be in the house at once."""

from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from typing import Literal

from service.inference.errors import QueueFullError, Scarce

ENSEMBLE_SHARE = 4
"""An ensemble may hold this many times the room that is left (Choudhury and Hahne 1998, dynamic
thresholds): alone it gets 4/5 of it, so the others always find room. Only where nothing else is
held may one request take more."""

MIN_RETRY_S = 1.0
MAX_RETRY_S = 60.0


class Room:
    """A limited amount of something that the ensembles share.

    Attributes:
        held: How much all of them hold.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0
        self._held_by: Counter[str] = Counter()

    def held_by(self, name: str) -> int:
        """How much one ensemble holds."""
        return self._held_by[name]

    def lacks(self, name: str, count: int, *, own: int = 0) -> Literal["room", "share"] | None:
        """What `count` more for an ensemble would exceed.

        Args:
            name: The ensemble.
            count: How much more.
            own: How much of what is held is held by the same request.
        """
        left = self.limit - self.held - count
        if left < 0:
            return "room"
        if self.held > own and self._held_by[name] + count > ENSEMBLE_SHARE * left:
            return "share"
        return None

    def take(self, name: str, count: int) -> None:
        """Hold more for an ensemble; a negative count gives back."""
        self.held += count
        self._held_by[name] += count
        if not self._held_by[name]:
            del self._held_by[name]


class Admission:
    """Counts the images between admission and answer. Used on the event loop only.

    Args:
        max_images: Bound on images decoding, queued and running.
        max_bytes: Bound on the bodies of the requests they came in.
    """

    def __init__(self, *, max_images: int, max_bytes: int) -> None:
        self._images = Room(max_images)
        self._bytes = Room(max_bytes)
        self._seconds_per_image = 0.0

    @property
    def num_images(self) -> int:
        """Images between admission and answer."""
        return self._images.held

    @property
    def num_bytes(self) -> int:
        """Bytes of the bodies in memory."""
        return self._bytes.held

    @contextmanager
    def images(self, name: str, count: int) -> Generator[None]:
        """Hold room for `count` images of an ensemble.

        Raises:
            QueueFullError: The queue, or the ensemble's share of it, is used up.
        """
        self._check_images(name, count)
        self._images.take(name, count)
        try:
            yield
        finally:
            self._images.take(name, -count)

    @contextmanager
    def body(self, name: str) -> Generator["BodyRoom"]:
        """Hold the room that the body of a request to an ensemble takes while it is in memory.

        Raises:
            QueueFullError: There would be no room for one of its images, so it need not be read.
        """
        self._check_images(name, 1)
        room = BodyRoom(self, name)
        try:
            yield room
        finally:
            self._bytes.take(name, -room.num_bytes)

    def take_bytes(self, name: str, num_bytes: int, *, own: int) -> None:
        """Count bytes that arrived, on behalf of `BodyRoom`, which holds `own` so far.

        Raises:
            QueueFullError: The bodies in memory, or the ensemble's share of them, would exceed
                the limit.
        """
        if self._bytes.lacks(name, num_bytes, own=own) is not None:
            raise self._refusal(
                "bytes",
                f"{self.num_bytes} bytes of images are in memory, {self._bytes.held_by(name)} of "
                f"them for {name}; {num_bytes} more exceed the limit of {self._bytes.limit} "
                "(max_inflight_bytes)",
                self._bytes.limit,
            )
        self._bytes.take(name, num_bytes)

    def _check_images(self, name: str, count: int) -> None:
        lacking = self._images.lacks(name, count)
        if lacking is None:
            return
        waiting = (
            f"{self.num_images} images are waiting, {self._images.held_by(name)} of them for {name}"
        )
        limit = self._images.limit
        if lacking == "room":
            message = f"{waiting}; {count} more exceed the limit of {limit} (max_queue)"
            raise self._refusal("queue", message, limit)
        raise self._refusal(
            "share",
            f"{waiting}; with {count} more it would have over {ENSEMBLE_SHARE} times the room that "
            f"it leaves to others, of {limit} (max_queue)",
            limit,
        )

    def observe(self, num_images: int, seconds: float) -> None:
        """Learn the engine's pace from a finished batch; it decides what Retry-After says."""
        pace = seconds / num_images
        self._seconds_per_image += 0.1 * (pace - self._seconds_per_image)

    def _refusal(self, scarce: Scarce, message: str, limit: int) -> QueueFullError:
        wait_s = self.num_images * self._seconds_per_image
        retry_after_s = min(MAX_RETRY_S, max(MIN_RETRY_S, wait_s))
        return QueueFullError(message, retry_after_s=retry_after_s, scarce=scarce, limit=limit)


class BodyRoom:
    """What one request's body takes of the room; grows as the body arrives."""

    def __init__(self, admission: Admission, name: str) -> None:
        self._admission = admission
        self._name = name
        self.num_bytes = 0

    def add(self, num_bytes: int) -> None:
        """Take room for bytes that arrived; raises `QueueFullError`."""
        self._admission.take_bytes(self._name, num_bytes, own=self.num_bytes)
        self.num_bytes += num_bytes
