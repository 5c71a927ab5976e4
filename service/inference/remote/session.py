"""One front, as the engine's process sees it."""

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import numpy as np

from service.inference.engine_client import Computed
from service.inference.local_engine import LocalEngine
from service.inference.remote.arena import ArenaView
from service.inference.remote.errors import ProtocolError
from service.inference.remote.failures import failure_of, is_known
from service.inference.remote.frames import MAX_FROM_FRONT_BYTES, FrameReader, framed
from service.inference.remote.messages import (
    Answer,
    Cancel,
    Compute,
    Failed,
    Failure,
    FromEngine,
    FromFront,
    Released,
    Result,
)
from service.inference.rows import RowOutcome

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class Computation:
    """A `Compute` that was not answered yet.

    Attributes:
        asked: The message.
        work: Computes it.
        reply: What to answer, once that is known.
        has_begun: Whether `work` has run at all; it does not if it is cancelled at once.
        is_released: Whether nobody reads its pixels any more.
    """

    asked: Compute
    work: asyncio.Task[None] | None = None
    reply: FromEngine | None = None
    has_begun: bool = False
    is_released: bool = False


class FrontSession(asyncio.Protocol):
    """Computes what a front asks for; all of it is cancelled when the front is gone.

    A reply leaves when the outcome is known and the pixels have been released, so that the front
    may use their slots again.

    Args:
        engine: Computes.
        name: The front's name.
        arena: Where its pixels lie.
    """

    def __init__(self, engine: LocalEngine, name: str, arena: ArenaView) -> None:
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._engine = engine
        self.name = name
        self._arena = arena
        self._reader: FrameReader[FromFront] = FrameReader(FromFront, MAX_FROM_FRONT_BYTES)  # type: ignore[arg-type]  # a union is no type to pyright
        self._computations: dict[int, Computation] = {}
        self._busy_slots: set[int] = set()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way back."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Do what the messages say; a front that breaks the rules is cut off."""
        try:
            for message in self._reader.feed(data):
                if isinstance(message, Compute):
                    self._begin(message)
                elif isinstance(message, Cancel):
                    self._cancel(message)
                else:
                    self._engine.residency.drop(message.digest)
        except ProtocolError as error:
            logger.warning("front cut off: %s", str(error), extra={"front": self.name})
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  it is gone either way
        """Cancel what it waits for."""
        self._transport = None
        for computation in self._computations.values():
            if computation.work is not None:
                computation.work.cancel()
        if not self.closed.done():
            self.closed.set_result(None)

    def send(self, message: FromEngine) -> None:
        """Send a message, unless the front is gone."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(framed(message))

    def abort(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.abort()

    def _begin(self, asked: Compute) -> None:
        slots = {row.slot for row in asked.rows}
        if asked.id in self._computations:
            raise ProtocolError(f"computation {asked.id} is not answered yet")
        if len(slots) != len(asked.rows) or slots & self._busy_slots:
            raise ProtocolError(f"slots of computation {asked.id} are in use")
        images = [self._arena.image(row) for row in asked.rows]
        self._busy_slots |= slots
        computation = self._computations[asked.id] = Computation(asked)
        computation.work = asyncio.create_task(self._compute(computation, images))
        computation.work.add_done_callback(lambda _: self._done(computation))

    def _cancel(self, asked: Cancel) -> None:
        computation = self._computations.get(asked.id)
        if computation is not None and computation.work is not None:
            computation.work.cancel()

    async def _compute(self, computation: Computation, images: list[np.ndarray]) -> None:
        asked = computation.asked
        computation.has_begun = True

        def released() -> None:
            computation.is_released = True
            self._reply(computation)

        computing = self._engine.compute(
            asked.digest,
            images,
            party=asked.party,
            deadline_s=asked.deadline_s,
            wants_features=asked.wants_features,
            on_released=released,
        )
        del images  # the rows alone hold them, so that they are gone with the rows
        try:
            computation.reply = _answer(asked, await computing)
        except asyncio.CancelledError:
            computation.reply = Released(asked.id)
        except Exception as error:
            if not is_known(error):
                logger.exception("a computation failed", extra={"front": self.name})
            computation.reply = Failed(asked.id, failure_of(error))

    def _done(self, computation: Computation) -> None:
        if not computation.has_begun:
            computation.reply = Released(computation.asked.id)
            computation.is_released = True
        self._reply(computation)

    def _reply(self, computation: Computation) -> None:
        if computation.reply is None or not computation.is_released:
            return
        if self._computations.pop(computation.asked.id, None) is None:
            return
        self._busy_slots.difference_update(row.slot for row in computation.asked.rows)
        self.send(computation.reply)


def _answer(asked: Compute, computed: Computed) -> Answer:
    classes = None if asked.knows_classes else computed.classes
    return Answer(asked.id, classes, tuple(_rows(computed.outcomes)))


def _rows(outcomes: Iterable[RowOutcome]) -> Iterable[Result | Failure]:
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            yield failure_of(outcome)
        else:
            features = outcome.features
            yield Result(
                outcome.probabilities.astype(np.float32, copy=False).tobytes(),
                outcome.digest,
                outcome.queue_s,
                outcome.forward_s,
                outcome.batch_size,
                None if features is None else features.astype(np.float32, copy=False).tobytes(),
            )
