"""The engine's side of the event loop: pins artifacts and exchanges rows with its threads."""

import asyncio
import logging
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from service.inference.bank import BankEntry
from service.inference.batcher import Batcher
from service.inference.engine_client import Computed
from service.inference.errors import EngineStoppedError
from service.inference.residency import Residency
from service.inference.rows import Row, RowOutcome

logger = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class Submission:
    """Images that are with the engine.

    Attributes:
        entry: Their artifact, pinned until they are done.
        rows: One an image; none once they are done or cancelled.
        on_done: Told what has become of them.
        outcomes: Of the rows that have one.
    """

    entry: BankEntry
    rows: list[Row]
    on_done: Callable[[Computed], None]
    outcomes: dict[Row, RowOutcome] = field(default_factory=dict[Row, RowOutcome])

    def let_go(self) -> None:
        """Hold neither images nor whoever waits for them any more."""
        self.rows, self.outcomes, self.on_done = [], {}, _tell_nobody


def _tell_nobody(_: Computed) -> None:
    pass


class LocalEngine:
    """An `EngineClient` whose engine's threads are in this process.

    Args:
        residency: Pins artifacts on the device.
        batcher: Where rows wait for the engine.
    """

    def __init__(
        self,
        residency: Residency,
        batcher: Batcher,
    ) -> None:
        self.residency = residency
        self._batcher = batcher
        self._waiting: dict[Row, Submission] = {}
        self._watched: dict[int, _Watched] = {}  # by id of the row

    async def compute(
        self,
        digest: str,
        pixels: Sequence[np.ndarray],
        *,
        tenant: str | None = None,
        deadline_s: float,
        wants_features: bool = False,
    ) -> Computed:
        """Compute images under an artifact; see `EngineClient.compute`."""
        entry = await self.residency.pin(digest)
        computed: asyncio.Future[Computed] = asyncio.get_running_loop().create_future()

        def on_done(found: Computed) -> None:
            if not computed.done():
                computed.set_result(found)

        submission = self.submit(
            entry,
            pixels,
            tenant=tenant,
            deadline_s=deadline_s,
            wants_features=wants_features,
            on_done=on_done,
        )
        try:
            return await computed
        except asyncio.CancelledError:
            self.cancel(submission)
            raise

    def submit(
        self,
        entry: BankEntry,
        pixels: Sequence[np.ndarray],
        *,
        tenant: str | None,
        deadline_s: float,
        wants_features: bool,
        on_done: Callable[[Computed], None],
    ) -> Submission:
        """Hand images to the engine, without a task that waits for them.

        Args:
            entry: Their artifact, as `Residency.pin` returned it; let go when they are done.
            pixels: As in `EngineClient.compute`.
            tenant: As there.
            deadline_s: As there.
            wants_features: As there.
            on_done: Told what has become of them, once and on the event loop, unless they are
                cancelled. By then nobody reads `pixels` any more.

        Raises:
            EngineStoppedError: The engine takes no more rows.
        """
        now_s = time.monotonic()
        whose = tenant or entry.digest
        rows = [
            Row(each, entry, deadline_s, now_s, whose, wants_features=wants_features)
            for each in pixels
        ]
        submission = Submission(entry, rows, on_done)
        if not rows:
            self._finish(submission)
            return submission
        for row in rows:
            self._waiting[row] = submission
        if not self._batcher.submit(rows):
            self.cancel(submission)
            raise EngineStoppedError("the service is stopping and takes no more images")
        return submission

    def cancel(
        self, submission: Submission, on_released: Callable[[], None] = lambda: None
    ) -> None:
        """Take back what was submitted; without effect on what is done.

        Args:
            submission: As `submit` returned it; once only.
            on_released: Called on the event loop, once, when nobody reads its pixels any more. That
                may be later: the engine may be at work on them.
        """
        is_done = len(submission.outcomes) == len(submission.rows)
        rows = [row for row in submission.rows if self._waiting.pop(row, None) is not None]
        submission.let_go()  # what holds the rows from now on is what reads them
        for row in rows:
            row.cancelled = True
        if not is_done:
            self.residency.unpin(submission.entry.digest)
        if rows:
            self._watch(rows, on_released)
        else:
            on_released()

    async def load(self, digest: str) -> None:
        """Bring an artifact to the device; see `EngineClient.load`."""
        await self.residency.pin(digest)
        self.residency.unpin(digest)

    async def unload(self, digest: str) -> None:
        """Let an artifact go unless it is in use; see `EngineClient.unload`."""
        self.residency.drop(digest)

    def settle(self, outcomes: list[tuple[Row, RowOutcome]]) -> None:
        """Hand the engine's outcomes to those who still wait; on the event loop."""
        for row, outcome in outcomes:
            submission = self._waiting.pop(row, None)
            if submission is not None:
                submission.outcomes[row] = outcome
                if len(submission.outcomes) == len(submission.rows):
                    self._finish(submission)
            elif (watched := self._watched.pop(id(row), None)) is not None:
                watched.released()

    def _finish(self, submission: Submission) -> None:
        self.residency.unpin(submission.entry.digest)
        on_done, found = submission.on_done, submission.outcomes
        outcomes = tuple([found[row] for row in submission.rows])
        submission.let_go()
        try:
            on_done(Computed(submission.entry.classes, outcomes))
        except Exception:  # of one client: the others of the batch are to have theirs
            logger.exception("an answer could not be handed over")

    def _watch(self, rows: list[Row], on_released: Callable[[], None]) -> None:
        """Call back when each row has its outcome, or was thrown away without one.

        The batcher drops cancelled rows without a word, on a thread of the engine; that a row is
        gone is what tells.
        """
        loop, left = asyncio.get_running_loop(), len(rows)

        def one_is_released() -> None:
            nonlocal left
            left -= 1
            if not left:
                on_released()

        def watch(row: Row) -> None:
            row_id = id(row)

            def gone(_: weakref.ref[Row]) -> None:
                # Not there any more if its outcome came before.
                if self._watched.pop(row_id, None) is not None and not loop.is_closed():
                    loop.call_soon_threadsafe(one_is_released)

            self._watched[row_id] = _Watched(weakref.ref(row, gone), one_is_released)

        while rows:
            watch(rows.pop())


class _Watched(NamedTuple):
    """A cancelled row whose pixels may be in use: whoever holds this is told once it is gone."""

    row: weakref.ref[Row]
    released: Callable[[], None]
