"""Images in, class probabilities out: the path of one classification request."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from images.errors import ImageDecodeError
from prompt_store.names import AliasReference
from service.inference.admission import Admission
from service.inference.decoding import DecodePool
from service.inference.engine_client import EngineClient
from service.inference.errors import NoMemoryError, too_late
from service.inference.observer import InferenceObserver
from service.inference.resolver import Reference, Resolver, Served
from service.inference.rows import RowOutcome
from service.inference.tracing import record_classification

logger = logging.getLogger(__name__)

Assigned = Callable[[AliasReference, int], None]


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
    """Resolves, admits, decodes and has the engine compute. Used on the event loop only.

    Args:
        resolver: From name to artifact digest.
        admission: Bounds what is in the house.
        decoder: From bytes to pixels.
        engine: Computes the pixels.
        deadline_s: How long a request may take.
        observer: Told of requests that end before their answer.
        assigned: Called with an alias and the version that one request to it was given.
    """

    def __init__(
        self,
        *,
        resolver: Resolver,
        admission: Admission,
        decoder: DecodePool,
        engine: EngineClient,
        deadline_s: float,
        observer: InferenceObserver,
        assigned: Assigned,
    ) -> None:
        self.admission = admission
        self.resolver = resolver
        self._decoder = decoder
        self.engine = engine
        self._deadline_s = deadline_s
        self._observer = observer
        self._assigned = assigned

    async def check(self, reference: Reference) -> None:
        """Make sure that there is something to serve, before anything is read for it.

        What was served lately is not looked up: nothing may wait while its body arrives.

        Raises:
            DeadlineExceededError: The store did not answer in time.
            FitNotFoundError, NotFoundError, NothingToServeError: As `Resolver.resolve`.
        """
        if self.resolver.has_served(reference):
            return
        try:
            async with asyncio.timeout(self._deadline_s):
                await self.resolver.resolve(reference)
        except TimeoutError as error:
            raise too_late(self._deadline_s) from error

    async def classify(
        self,
        reference: Reference,
        images: Sequence[bytes | np.ndarray | Exception],
        assignment_key: str | None = None,
        *,
        wants_features: bool = False,
    ) -> Classification:
        """Classify images with an ensemble.

        Args:
            reference: The ensemble, one of its versions, or an alias.
            images: At least one, encoded, or (3, H, W) float32 and already normalised, or why one
                has no pixels, which is its outcome then.
            assignment_key: As `Resolver.resolve`; all images get the same version.
            wants_features: Whether the outcomes carry features.

        Raises:
            QueueFullError: Too many images wait.
            DeadlineExceededError: The deadline passed first.
            FitNotFoundError, NotFoundError, NothingToServeError: As `Resolver.resolve`.
            EngineStoppedError, ArtifactMismatchError, PromptStoreError: As `EngineClient.compute`.
        """
        deadline_s = time.monotonic() + self._deadline_s
        try:
            async with asyncio.timeout(self._deadline_s) as deadline:
                served = await self.resolver.resolve(reference, assignment_key)
                if isinstance(reference, AliasReference):
                    self._assigned(reference, served.version)
                try:
                    return await self._classify(served, images, deadline_s, wants_features)
                except asyncio.CancelledError:
                    why = "deadline" if deadline.expired() else "disconnect"
                    self._observer.images_given_up(len(images), why)
                    raise
        except TimeoutError as error:
            raise too_late(self._deadline_s) from error

    async def _classify(
        self,
        served: Served,
        images: Sequence[bytes | np.ndarray | Exception],
        deadline_s: float,
        wants_features: bool,
    ) -> Classification:
        with self.admission.images(served.name, len(images)):
            started_s = time.monotonic()
            decoded = await self._decoded(images, served.name)
            decode_s = time.monotonic() - started_s
            computed = await self.engine.compute(
                served.digest,
                [each for each in decoded if isinstance(each, np.ndarray)],
                tenant=served.name,
                deadline_s=deadline_s,
                wants_features=wants_features,
            )
            results = iter(computed.outcomes)
            outcomes = tuple(
                next(results) if isinstance(each, np.ndarray) else each for each in decoded
            )
            record_classification(served, outcomes, began_s=started_s, decode_s=decode_s)
            return Classification(served, computed.classes, outcomes, decode_s)

    async def _decoded(
        self, images: Sequence[bytes | np.ndarray | Exception], name: str
    ) -> list[np.ndarray | Exception]:
        """Pixels of each image, or why it has none: only what fails all of them is raised."""
        if len(images) == 1:  # the usual case needs no task of its own
            return [await self._pixels(images[0], name)]
        return await asyncio.gather(*(self._pixels(image, name) for image in images))

    async def _pixels(
        self, image: bytes | np.ndarray | Exception, name: str
    ) -> np.ndarray | Exception:
        if isinstance(image, np.ndarray | Exception):
            return image
        try:
            return await self._decoder.pixels(image, name)
        except ImageDecodeError as error:
            return error
        except MemoryError:
            fields = {"ensemble": name, "size_bytes": len(image)}
            logger.warning("there is no memory to decode an image", exc_info=True, extra=fields)
            # Not as its cause: the traceback would hold what was decoded so far.
            return NoMemoryError(
                f"there is no memory to decode an image of {len(image)} bytes; it may be sent again"
            )
