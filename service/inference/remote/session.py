"""One front, as the engine's process sees it."""

import asyncio
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from service.inference.bank import BankEntry
from service.inference.engine_client import Computed
from service.inference.errors import EngineStoppedError
from service.inference.local_engine import LocalEngine, Submission
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


@dataclass(eq=False, slots=True)
class Computation:
    """A `Compute` that was not answered yet.

    Attributes:
        asked: The message.
        bringing: Brings its artifact to the device, if it was not there.
        submission: Its images, once they are with the engine, until they are cancelled.
    """

    asked: Compute
    bringing: asyncio.Task[None] | None = None
    submission: Submission | None = None


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
        for computation in list(self._computations.values()):
            self._give_up(computation)
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
        entry = self._engine.residency.pin_resident(asked.digest)
        if entry is not None:
            self._submit(computation, entry, images)
            return
        computation.bringing = asyncio.create_task(self._bring(computation, images))
        computation.bringing.add_done_callback(lambda task: self._brought(computation, task))

    async def _bring(self, computation: Computation, images: list[np.ndarray]) -> None:
        """Bring the artifact to the device, then submit the images."""
        try:
            entry = await self._engine.residency.pin(computation.asked.digest)
        except Exception as error:  # noqa: BLE001 - told to whoever asked
            self._fail(computation, error)
        else:
            self._submit(computation, entry, images)

    def _brought(self, computation: Computation, task: asyncio.Task[None]) -> None:
        computation.bringing = None  # each has the other: let go, so that the pixels are free
        if task.cancelled():
            self._release(computation)

    def _submit(
        self, computation: Computation, entry: BankEntry, images: Sequence[np.ndarray]
    ) -> None:
        asked = computation.asked
        try:
            computation.submission = self._engine.submit(
                entry,
                images,
                tenant=asked.tenant,
                deadline_s=asked.deadline_s,
                wants_features=asked.wants_features,
                on_done=lambda computed: self._answered(computation, computed),
            )
        except EngineStoppedError as error:
            self._fail(computation, error)

    def _answered(self, computation: Computation, computed: Computed) -> None:
        try:
            answer = _answer(computation.asked, computed)
        except Exception as error:  # noqa: BLE001 - told to whoever asked
            self._fail(computation, error)
        else:
            self._reply(computation, answer)

    def _cancel(self, asked: Cancel) -> None:
        computation = self._computations.get(asked.id)
        if computation is not None:
            self._give_up(computation)

    def _give_up(self, computation: Computation) -> None:
        submission, computation.submission = computation.submission, None
        if submission is not None:
            self._engine.cancel(submission, lambda: self._release(computation))
        elif computation.bringing is not None:
            computation.bringing.cancel()  # without effect once that is done

    def _fail(self, computation: Computation, error: Exception) -> None:
        if not is_known(error):
            logger.error("a computation failed", exc_info=error, extra={"front": self.name})
        self._reply(computation, Failed(computation.asked.id, failure_of(error)))

    def _release(self, computation: Computation) -> None:
        self._reply(computation, Released(computation.asked.id))

    def _reply(self, computation: Computation, reply: FromEngine) -> None:
        """Answer; nobody reads the pixels any more, so the front may use their slots again."""
        del self._computations[computation.asked.id]
        self._busy_slots.difference_update(row.slot for row in computation.asked.rows)
        self.send(reply)


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
