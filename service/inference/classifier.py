"""Images in, class probabilities out: the path of one classification request."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from images.errors import ImageDecodeError
from service.inference.admission import Admission
from service.inference.bank import BankEntry
from service.inference.batcher import Batcher
from service.inference.decoding import DecodePool
from service.inference.errors import DeadlineExceededError, EngineStoppedError
from service.inference.residency import Residency
from service.inference.resolver import Resolver, Served
from service.inference.rows import Row, RowOutcome


@dataclass(frozen=True)
class Classification:
    """The answer to one request.

    Attributes:
        served: The ensemble version that answered.
        classes: Label of each index.
        outcomes: One per image, in order: a result, or why this image has none.
        decode_s: Time until every image of the request was decoded.
    """

    served: Served
    classes: tuple[str, ...]
    outcomes: tuple[RowOutcome, ...]
    decode_s: float


class Classifier:
    """Takes requests on the event loop and exchanges rows with the engine's thread.

    Args:
        resolver: From name to artifact digest.
        admission: Bounds what is in the house.
        residency: Pins artifacts on the device.
        decoder: From bytes to pixels.
        batcher: Where rows wait for the engine.
        deadline_s: How long a request may take.
        clock: Monotonic seconds, the engine's clock.
    """

    def __init__(
        self,
        *,
        resolver: Resolver,
        admission: Admission,
        residency: Residency,
        decoder: DecodePool,
        batcher: Batcher,
        deadline_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.admission = admission
        self.residency = residency
        self.resolver = resolver
        self._decoder = decoder
        self._batcher = batcher
        self._deadline_s = deadline_s
        self._clock = clock
        self._waiting: dict[Row, asyncio.Future[RowOutcome]] = {}

    async def classify(
        self, name: str, version: int | None, images: Sequence[bytes]
    ) -> Classification:
        """Classify images with an ensemble.

        Args:
            name: The ensemble.
            version: None for the last one that succeeded.
            images: Encoded images, at least one.

        Raises:
            QueueFullError: Too many images wait.
            DeadlineExceededError: The deadline passed first.
            EngineStoppedError: The service is stopping.
            FitNotFoundError, NothingToServeError: As `Resolver.resolve`.
            ArtifactMismatchError, PromptStoreError: As `Residency.pinned`.
        """
        deadline_s = self._clock() + self._deadline_s
        try:
            async with asyncio.timeout(self._deadline_s):
                return await self._classify(name, version, images, deadline_s)
        except TimeoutError as error:
            raise DeadlineExceededError(
                f"no answer within the deadline of {self._deadline_s:g} s (request_deadline_s)"
            ) from error

    def settle(self, outcomes: list[tuple[Row, RowOutcome]]) -> None:
        """Hand the engine's outcomes to the requests that still wait; on the event loop."""
        for row, outcome in outcomes:
            waiting = self._waiting.pop(row, None)
            if waiting is not None and not waiting.done():
                waiting.set_result(outcome)

    async def _classify(
        self, name: str, version: int | None, images: Sequence[bytes], deadline_s: float
    ) -> Classification:
        served = await self.resolver.resolve(name, version)
        with self.admission.images(name, len(images)):
            async with self.residency.pinned(served.digest) as entry:
                started_s = self._clock()
                decoded = await asyncio.gather(*(self._pixels(image) for image in images))
                decode_s = self._clock() - started_s
                outcomes = await self._outcomes(decoded, entry, deadline_s)
                return Classification(served, entry.classes, outcomes, decode_s)

    async def _pixels(self, image: bytes) -> np.ndarray | ImageDecodeError:
        try:
            return await self._decoder.pixels(image)
        except ImageDecodeError as error:
            return error

    async def _outcomes(
        self,
        decoded: Sequence[np.ndarray | ImageDecodeError],
        entry: BankEntry,
        deadline_s: float,
    ) -> tuple[RowOutcome, ...]:
        """Queue the good rows and wait for them; undecodable ones are their own outcome."""
        now_s = self._clock()
        rows: list[Row] = []
        outcomes: list[ImageDecodeError | asyncio.Future[RowOutcome]] = []
        for pixels in decoded:
            if isinstance(pixels, ImageDecodeError):
                outcomes.append(pixels)
            else:
                row = Row(pixels, entry, deadline_s, submitted_s=now_s)
                self._waiting[row] = asyncio.get_running_loop().create_future()
                rows.append(row)
                outcomes.append(self._waiting[row])
        try:
            if rows and not self._batcher.submit(rows):
                raise EngineStoppedError("the service is stopping and takes no more images")
            return tuple([o if isinstance(o, ImageDecodeError) else await o for o in outcomes])
        finally:
            for row in rows:
                row.cancelled = True  # without effect on rows that were answered
                self._waiting.pop(row, None)
