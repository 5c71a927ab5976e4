"""The engine's side of the event loop: pins artifacts and exchanges rows with its thread."""

import asyncio
import time
import weakref
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from service.inference.batcher import Batcher
from service.inference.engine_client import Computed
from service.inference.errors import EngineStoppedError
from service.inference.residency import Residency
from service.inference.rows import Row, RowOutcome


class LocalEngine:
    """An `EngineClient` whose engine is a thread of this process.

    Args:
        residency: Pins artifacts on the device.
        batcher: Where rows wait for the engine.
        clock: Monotonic seconds, the engine's clock.
    """

    def __init__(
        self,
        residency: Residency,
        batcher: Batcher,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.residency = residency
        self._batcher = batcher
        self._clock = clock
        self._waiting: dict[Row, asyncio.Future[RowOutcome]] = {}
        self._watched: dict[int, _Watched] = {}  # by id of the row

    async def compute(
        self,
        digest: str,
        pixels: Sequence[np.ndarray],
        *,
        party: str | None = None,
        deadline_s: float,
        wants_features: bool = False,
        on_released: Callable[[], None] | None = None,
    ) -> Computed:
        """Compute images under an artifact; see `EngineClient.compute`.

        Args:
            digest: As there.
            pixels: As there.
            party: As there.
            deadline_s: As there.
            wants_features: As there.
            on_released: Called on the event loop, once, when nobody reads `pixels` any more. If the
                caller is cancelled that may be later: the engine may be at work on them.
        """
        rows: list[Row] = []
        try:
            async with self.residency.pinned(digest) as entry:
                now_s = self._clock()
                rows += [
                    Row(
                        each,
                        entry,
                        deadline_s,
                        submitted_s=now_s,
                        party=party,
                        wants_features=wants_features,
                    )
                    for each in pixels
                ]
                if on_released is not None:
                    self._watch(rows, on_released)
                return Computed(entry.classes, await self._outcomes(rows))
        finally:
            if on_released is not None and not rows:
                on_released()

    async def load(self, digest: str) -> None:
        """Bring an artifact to the device; see `EngineClient.load`."""
        async with self.residency.pinned(digest):
            pass

    async def unload(self, digest: str) -> None:
        """Let an artifact go unless it is in use; see `EngineClient.unload`."""
        self.residency.drop(digest)

    def settle(self, outcomes: list[tuple[Row, RowOutcome]]) -> None:
        """Hand the engine's outcomes to the callers that still wait; on the event loop."""
        for row, outcome in outcomes:
            watched = self._watched.pop(id(row), None)
            if watched is not None:
                watched.released()
            waiting = self._waiting.pop(row, None)
            if waiting is not None and not waiting.done():
                waiting.set_result(outcome)

    async def _outcomes(self, rows: list[Row]) -> tuple[RowOutcome, ...]:
        loop = asyncio.get_running_loop()
        futures = [self._waiting.setdefault(row, loop.create_future()) for row in rows]
        try:
            if not self._batcher.submit(rows):
                raise EngineStoppedError("the service is stopping and takes no more images")
            return tuple([await future for future in futures])
        finally:
            for row in rows:
                row.cancelled = True  # without effect on rows that were answered
                self._waiting.pop(row, None)

    def _watch(self, rows: list[Row], on_released: Callable[[], None]) -> None:
        """Call back when each row has its outcome, or was thrown away without one.

        The batcher drops cancelled rows without a word, on the engine's thread; that a row is gone
        is what tells.
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

        for row in rows:
            watch(row)


class _Watched(NamedTuple):
    """A row whose pixels are in use: whoever holds this is told once the row is gone."""

    row: weakref.ref[Row]
    released: Callable[[], None]
