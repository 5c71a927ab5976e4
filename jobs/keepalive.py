"""While a handler runs: heartbeats and progress to Redis, and an eye on the store.

All of it happens in asyncio tasks beside the handler's thread, so a handler that is silent for an
hour still beats. An outage of Redis or of the store is waited out.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from jobs.context import FitContext
from jobs.ensembles import EnsembleStore
from jobs.errors import STORE_AWAY, QueueUnavailableError
from jobs.progress import ProgressBoard
from jobs.records import FitId, Progress, event_id
from jobs.settings import DeploymentSettings

logger = logging.getLogger(__name__)

REPORT_INTERVAL_S = 0.5


class Reporter:
    """Sends what a handler reports as numbered events; keeps what Redis would not take."""

    def __init__(self, fit_id: FitId, attempt: int, board: ProgressBoard) -> None:
        self._fit_id = fit_id
        self._attempt = attempt
        self._board = board
        self._number = 0
        self._unsent: dict[str | None, Progress] = {}
        self._sending = asyncio.Lock()

    async def send(self, reports: list[Progress]) -> None:
        """Send reports, and those that are left over from an outage, one per stage."""
        try:
            async with self._sending:
                self._unsent.update({report.stage: report for report in reports})
                for stage, report in list(self._unsent.items()):
                    self._number += 1
                    event = event_id(self._attempt, self._number)
                    await self._board.post(self._fit_id, report.model_copy(update={"id": event}))
                    del self._unsent[stage]
        except QueueUnavailableError as error:
            logger.debug("progress waits: %s", error, extra={"fit": str(self._fit_id)})


@asynccontextmanager
async def kept_alive(
    context: FitContext, board: ProgressBoard, store: EnsembleStore, settings: DeploymentSettings
) -> AsyncGenerator[Reporter]:
    """Beat, report and watch until the block ends; `context.stop` is called if it must."""
    fit_id = context.request.fit_id
    reporter = Reporter(fit_id, context.attempt, board)
    await reporter.send([Progress(status="running", attempt=context.attempt)])
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(_beat(context, board, settings.heartbeat_s)),
            group.create_task(_watch(context, store, settings.heartbeat_s)),
            group.create_task(_report(context, reporter, settings.heartbeat_s)),
        ]
        try:
            yield reporter
        finally:
            for task in tasks:
                task.cancel()


async def _beat(context: FitContext, board: ProgressBoard, heartbeat_s: float) -> None:
    fit_id = context.request.fit_id
    while True:
        try:
            if not await board.beat(fit_id, context.attempt):
                context.stop("overtaken")
        except QueueUnavailableError as error:
            logger.warning("missed a heartbeat: %s", error, extra={"fit": str(fit_id)})
        await asyncio.sleep(heartbeat_s)


async def _watch(context: FitContext, store: EnsembleStore, heartbeat_s: float) -> None:
    fit_id = context.request.fit_id
    while True:
        try:
            state = await asyncio.to_thread(store.state, fit_id)
            if state.ended:
                context.stop("ended")
            elif state.attempt > context.attempt:
                context.stop("overtaken")
        except STORE_AWAY as error:
            logger.warning("cannot watch for a cancel: %s", error, extra={"fit": str(fit_id)})
        await asyncio.sleep(heartbeat_s)


async def _report(context: FitContext, reporter: Reporter, heartbeat_s: float) -> None:
    while True:
        await asyncio.sleep(min(heartbeat_s, REPORT_INTERVAL_S))
        await reporter.send(context.take_reports())
