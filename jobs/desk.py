"""What the HTTP service does with fits: submit, read, follow, cancel."""

import asyncio
import logging
import re
import secrets
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import islice

from jobs.dispatch import FitQueue
from jobs.ensembles import EnsembleStore
from jobs.errors import EnsembleDeletedError, QueueUnavailableError
from jobs.progress import ProgressBoard, Standing
from jobs.records import (
    ENDED,
    EnsembleRecord,
    FitId,
    FitOutcome,
    FitRequest,
    FitSpec,
    Progress,
    event_id,
)
from jobs.settings import DeploymentSettings
from jobs.sweeper import Sweeper
from prompt_store.errors import CorruptDocumentError, StoreUnavailableError
from prompt_store.manifests import next_number

logger = logging.getLogger(__name__)

POLL_INTERVAL_S = 0.25
POLLS_PER_LOOK = 8  # the store is asked for an outcome once in so many polls of Redis


@dataclass(frozen=True)
class RecordPage:
    """Some ensembles.

    Attributes:
        records: The ensembles.
        next_cursor: Continues the listing; None if there is nothing more.
    """

    records: list[EnsembleRecord]
    next_cursor: str | None


class FitDesk:
    """Fits as the service sees them. No method blocks the event loop.

    Besides the errors named below, those of the store (`prompt_store.errors`) pass through.

    Attributes:
        store: For what needs no Redis: `versions`, `latest_succeeded`, `dependents` and so on;
            call those in a thread.
    """

    def __init__(self, store: EnsembleStore, queue: FitQueue, board: ProgressBoard) -> None:
        self.store = store
        self._queue = queue
        self._board = board

    async def ping(self) -> None:
        """Return if Redis answers.

        Raises:
            QueueUnavailableError: It does not.
        """
        await self._board.ping()

    async def queue_depth(self) -> int:
        """Fits that are queued or running.

        Raises:
            QueueUnavailableError: Redis is away.
        """
        return await self._queue.depth()

    async def submit(self, spec: FitSpec, idempotency_digest: str | None = None) -> FitRequest:
        """Make a fit durable and queue it; once this returns it will end, come what may.

        Args:
            spec: What to fit.
            idempotency_digest: Of the caller's idempotency key. A request that came with the same
                one is returned instead of another.

        Raises:
            QueueUnavailableError: Redis is away; nothing was recorded.
        """
        await self._board.ping()
        request = await asyncio.to_thread(self.store.create, spec, idempotency_digest)
        queued = Progress(id=event_id(0, 1), status="queued")
        try:
            await self._queue.enqueue(request.fit_id)
            await self._board.post(request.fit_id, queued)
        except QueueUnavailableError as error:
            # It is durable, so it counts; the sweeper queues it when Redis is back.
            logger.warning("left to the sweeper: %s", error, extra={"fit": str(request.fit_id)})
        return request

    async def record(self, fit_id: FitId, *, with_result: bool = False) -> EnsembleRecord:
        """One version of one ensemble, with its progress if it is running.

        Raises:
            FitNotFoundError: There is no such fit.
            EnsembleDeletedError: It has been deleted.
            CorruptDocumentError: What is stored of it is damaged.
        """
        (standing,) = await self._standings([fit_id])
        record = await asyncio.to_thread(self.store.record, fit_id, with_result=with_result)
        return _standing_at(record, standing)

    async def versions(self, name: str, *, after: int = 0, limit: int = 100) -> RecordPage:
        """Living versions above `after`, ascending; damaged ones are left out and logged.

        Raises:
            FitNotFoundError: The name is unknown, or was deleted.
        """
        living = await asyncio.to_thread(self.store.living, name)
        versions = [version for version in living if version > after]
        records = await self._records([FitId(name, version) for version in versions[:limit]])
        return RecordPage(records, next_number(versions, limit))

    async def page(self, *, start_after: str | None = None, limit: int = 100) -> RecordPage:
        """Ensembles in the order of their names, each as its bare name means it.

        Damaged ones are left out and logged.
        """
        names = self.store.currents(start_after=start_after)
        found = await asyncio.to_thread(lambda: list(islice(names, limit + 1)))
        more = found[limit - 1].name if len(found) > limit else None
        return RecordPage(await self._records(found[:limit]), more)

    async def current(self, name: str) -> FitId:
        """What the bare name means: the newest version that succeeded, else the newest.

        Raises:
            FitNotFoundError: The name is unknown, or was deleted.
        """
        return await asyncio.to_thread(self.store.current, name)

    async def newest(self, name: str) -> FitId:
        """The newest version, which is the one that may still be running.

        Raises:
            FitNotFoundError: The name is unknown, or was deleted.
        """
        return await asyncio.to_thread(self.store.newest, name)

    async def cancel(self, fit_id: FitId) -> FitOutcome:
        """End the fit as cancelled, at once; if it is running, its worker stops within a beat.

        Raises:
            FitNotFoundError: There is no such fit.
            FitEndedError: The fit has ended.
        """
        outcome = await asyncio.to_thread(self.store.cancel, fit_id)
        try:
            await self._board.post(fit_id, Progress.of_outcome(outcome))
        except QueueUnavailableError as error:
            logger.debug("not announced: %s", error, extra={"fit": str(fit_id)})
        return outcome

    async def events(
        self, fit_id: FitId, last_event_id: str | None = None
    ) -> AsyncGenerator[Progress]:
        """Progress as it happens, from the first event kept or after `last_event_id`.

        Ends after the outcome, which is derived from the store if Redis no longer has it. Yields
        nothing if the outcome is what `last_event_id` names. An outage of Redis or of the store
        only delays it.

        Raises:
            FitNotFoundError: There is no such fit.
        """
        last = last_event_id if re.fullmatch(r"\d{1,10}-\d{1,10}", last_event_id or "") else None
        await asyncio.to_thread(self.store.state, fit_id)
        polls = 0
        while True:
            # First the outcome, then the events: whatever was reported before the end is there.
            look = polls % POLLS_PER_LOOK == 0
            outcome = await self._outcome(fit_id) if look else None
            for progress in await self._after(fit_id, last):
                yield progress
                last = progress.id
                if progress.event == "outcome":
                    return
            if outcome is not None:
                final = Progress.of_outcome(outcome)
                if final.id != last:
                    yield final
                return
            polls += 1
            await asyncio.sleep(POLL_INTERVAL_S)

    async def _records(self, fit_ids: Sequence[FitId]) -> list[EnsembleRecord]:
        """The fits as they stand, without those that have been deleted or are damaged."""
        standings = await self._standings(fit_ids)

        def read(fit_id: FitId) -> EnsembleRecord | None:
            try:
                return self.store.record(fit_id)
            except EnsembleDeletedError:
                return None
            except CorruptDocumentError as error:
                logger.error("left out: %s", error, extra={"fit": str(fit_id)})  # noqa: TRY400
                return None

        records = await asyncio.to_thread(lambda: [read(fit_id) for fit_id in fit_ids])
        pairs = zip(records, standings, strict=True)
        return [_standing_at(record, standing) for record, standing in pairs if record]

    async def _standings(self, fit_ids: Sequence[FitId]) -> Sequence[Standing | None]:
        """What Redis knows of the fits; to be asked before the store.

        A beat ends after the outcome is stored, so the other order could find neither, and show a
        fit that has just ended as queued.
        """
        try:
            return await self._board.standing(fit_ids)
        except QueueUnavailableError:
            return [None] * len(fit_ids)

    async def _outcome(self, fit_id: FitId) -> FitOutcome | None:
        try:
            return await asyncio.to_thread(self.store.outcome, fit_id)
        except StoreUnavailableError as error:
            logger.debug("no outcome now: %s", error, extra={"fit": str(fit_id)})
            return None

    async def _after(self, fit_id: FitId, last: str | None) -> list[Progress]:
        try:
            return await self._board.after(fit_id, last)
        except QueueUnavailableError as error:
            logger.debug("no events now: %s", error, extra={"fit": str(fit_id)})
            return []


def _standing_at(record: EnsembleRecord, standing: Standing | None) -> EnsembleRecord:
    if standing is None or record.status in ENDED:
        return record
    if standing.running_attempt is None:
        return record.model_copy(update={"status": "queued"})
    latest = standing.latest
    fresh = latest is not None and latest.attempt == record.attempt
    return record.model_copy(update={"status": "running", "progress": latest if fresh else None})


@asynccontextmanager
async def open_desk(store: EnsembleStore, settings: DeploymentSettings) -> AsyncGenerator[FitDesk]:
    """A desk that also takes its turns at sweeping. Redis need not be up."""
    async with FitQueue(settings) as queue, ProgressBoard(settings) as board:
        name = f"desk-{secrets.token_hex(4)}"
        async with Sweeper(store, queue, board, name, settings.sweep_interval_s).sweeping():
            yield FitDesk(store, queue, board)
