"""One connection of a front to the engine's process."""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import cast

import numpy as np

from service.inference.engine_client import Computed
from service.inference.errors import EngineUnavailableError, QueueFullError
from service.inference.remote.arena import PixelArena
from service.inference.remote.errors import ProtocolError
from service.inference.remote.failures import error_of
from service.inference.remote.frames import MAX_FROM_ENGINE_BYTES, FrameReader, framed
from service.inference.remote.messages import (
    Answer,
    Beat,
    Cancel,
    Compute,
    Failed,
    Failure,
    FromEngine,
    FromFront,
    Pixels,
    Result,
    Unload,
)
from service.inference.rows import RowOutcome, RowResult

logger = logging.getLogger(__name__)

SILENT_BEATS = 5
"""Beats that may be missing before the engine is taken for dead."""

MAX_KNOWN_CLASSES = 1024
"""Artifacts whose labels are remembered, so that they need not come with every answer."""

MAX_KNOWN_LABELS = 262_144
"""Labels of all of them together: some 20 MB."""

RETRY_S = 1.0


@dataclass(frozen=True)
class Pending:
    """A `Compute` that was not answered yet."""

    rows: tuple[Pixels, ...]
    digest: str
    classes: tuple[str, ...] | None
    computed: asyncio.Future[Computed]


class EngineLink(asyncio.Protocol):
    """Asks the engine's process, for as long as the connection lasts.

    Args:
        arena: Where pixels go; not used after this connection.
        beat_s: How often the engine gives a sign of life.
        on_pace: Told how many images took how many seconds.
    """

    def __init__(
        self, arena: PixelArena, beat_s: float, on_pace: Callable[[int, float], None]
    ) -> None:
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.is_healthy = True
        self._arena = arena
        self._beat_s = beat_s
        self._on_pace = on_pace
        self._reader: FrameReader[FromEngine] = FrameReader(FromEngine, MAX_FROM_ENGINE_BYTES)  # type: ignore[arg-type]  # a union is no type to pyright
        self._ids = count()
        self._pending: dict[int, Pending] = {}
        self._known_classes: OrderedDict[str, tuple[str, ...]] = OrderedDict()
        self._num_known_labels = 0
        self._transport: asyncio.Transport | None = None
        self._silent_beats = 0
        self._next_beat: asyncio.TimerHandle | None = None

    async def compute(
        self,
        digest: str,
        pixels: Sequence[np.ndarray],
        *,
        tenant: str | None,
        deadline_s: float,
        wants_features: bool,
    ) -> Computed:
        """Compute images under an artifact; see `RemoteEngine.compute`."""
        if self._transport is None:
            raise unavailable()
        rows = self._arena.put(pixels)
        if rows is None:
            raise QueueFullError(
                f"{self._arena.num_slots - self._arena.num_free} images are with the engine; "
                f"{len(pixels)} more exceed the limit of {self._arena.num_slots} (max_queue)",
                retry_after_s=RETRY_S,
                scarce="queue",
                limit=self._arena.num_slots,
            )
        number, classes = next(self._ids), self._known_classes.get(digest)
        computed: asyncio.Future[Computed] = asyncio.get_running_loop().create_future()
        self._pending[number] = Pending(rows, digest, classes, computed)
        self._send(
            Compute(number, digest, rows, deadline_s, wants_features, classes is not None, tenant)
        )
        try:
            return await computed
        except asyncio.CancelledError:
            self._send(Cancel(number))  # the slots come back when the engine says so
            raise

    def unload(self, digest: str) -> None:
        """Let an artifact go; see `RemoteEngine.unload`."""
        self._send(Unload(digest))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way back and begin to listen for signs of life."""
        self._transport = cast("asyncio.Transport", transport)
        self._listen()

    def data_received(self, data: bytes) -> None:
        """Hand the replies to those who wait."""
        self._silent_beats = 0
        try:
            for message in self._reader.feed(data):
                self._receive(message)
        except ProtocolError:
            logger.exception("the engine's process sent nonsense")
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  it is gone either way
        """Tell everyone who waits that there will be no answer."""
        self._transport = None
        if self._next_beat is not None:
            self._next_beat.cancel()
        for pending in self._pending.values():
            if not pending.computed.done():
                pending.computed.set_exception(unavailable())
        self._pending.clear()
        self.closed.set_result(None)

    def abort(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.abort()

    def _listen(self) -> None:
        """Count beats rather than seconds: a front that was stopped itself blames nobody.

        Between two of them, memory that the last one saw idle is given back.
        """
        if self._transport is None:
            return
        self._arena.give_back()
        self._silent_beats += 1
        if self._silent_beats > SILENT_BEATS:
            logger.error("the engine's process is silent, hanging up")
            self.abort()
        else:
            self._next_beat = asyncio.get_running_loop().call_later(self._beat_s, self._listen)

    def _send(self, message: FromFront) -> None:
        if self._transport is not None:
            self._transport.write(framed(message))

    def _receive(self, message: FromEngine) -> None:
        if isinstance(message, Beat):
            self.is_healthy = message.healthy
            if message.num_images:
                self._on_pace(message.num_images, message.forward_s)
            return
        pending = self._pending.get(message.id)
        if pending is None:
            raise ProtocolError(f"a reply to {message.id}, which nobody asked")
        # First: a reply that breaks the rules ends the connection, which fails all that is pending.
        computed = self._computed(pending, message) if isinstance(message, Answer) else None
        del self._pending[message.id]
        self._arena.free(pending.rows)
        if pending.computed.done():
            return
        if isinstance(message, Failed):
            pending.computed.set_exception(error_of(message.failure))
        elif computed is not None:
            pending.computed.set_result(computed)

    def _computed(self, pending: Pending, answer: Answer) -> Computed:
        classes = pending.classes if answer.classes is None else answer.classes
        if classes is None or len(answer.rows) != len(pending.rows):
            raise ProtocolError(f"{len(answer.rows)} outcomes of {len(pending.rows)}, or no labels")
        self._remember(pending.digest, classes)
        return Computed(classes, tuple(_outcome(row) for row in answer.rows))

    def _remember(self, digest: str, classes: tuple[str, ...]) -> None:
        known = self._known_classes
        self._num_known_labels += len(classes) - len(known.pop(digest, ()))
        known[digest] = classes
        while len(known) > MAX_KNOWN_CLASSES or self._num_known_labels > MAX_KNOWN_LABELS:
            _, forgotten = known.popitem(last=False)
            self._num_known_labels -= len(forgotten)


def unavailable() -> EngineUnavailableError:
    """Return the error for everything that is asked while there is no engine."""
    return EngineUnavailableError("the engine's process is not there; it is being restarted")


def _outcome(row: Result | Failure) -> RowOutcome:
    if isinstance(row, Failure):
        return error_of(row)
    features = None if row.features is None else np.frombuffer(row.features, np.float32)
    probabilities = np.frombuffer(row.probabilities, np.float32)
    return RowResult(
        probabilities, row.digest, row.queue_s, row.forward_s, row.batch_size, features
    )
