"""What a worker process runs."""

import asyncio
import logging
import signal
from collections.abc import Sequence

from jobs.dispatch import FitQueue
from jobs.ensembles import EnsembleStore
from jobs.errors import QueueUnavailableError, WorkerBrokenError
from jobs.observer import FitObserver, Unobserved
from jobs.progress import ProgressBoard
from jobs.records import FitId
from jobs.runner import FitHandler, FitRunner
from jobs.settings import DeploymentSettings
from jobs.sweeper import Sweeper
from jobs.worker_names import new_worker_name

logger = logging.getLogger(__name__)


async def run_worker(
    handler: FitHandler,
    store: EnsembleStore,
    settings: DeploymentSettings,
    *,
    stopping: asyncio.Event,
    expected: tuple[type[Exception], ...] = (),
    fatal: tuple[type[Exception], ...] = (),
    observer: FitObserver | None = None,
) -> None:
    """Run fits one at a time until `stopping` is set; survives outages of Redis and the store.

    Args:
        handler: Computes one fit, synchronously, in a thread of its own. It returns the artifact,
            or raises: `FitRefusedError` or one of `expected` ends the fit as failed with that
            message; `StoreUnavailableError` lets it run again later; anything else ends it as
            failed with only the class named, and is logged. When `should_stop()` is true, whatever
            it raises means that it stopped.
        store: The deployment's fits.
        settings: The deployment's settings.
        stopping: Set it to return: the running fit is asked to stop and goes back to the queue, and
            its attempt does not count as lost. A handler that does not notice `should_stop()`
            within `fit_stop_grace_s`, whatever the reason to stop, is abandoned in its thread; the
            process should then exit.
        expected: Exceptions whose messages are written for users.
        fatal: Exceptions after which no fit can run in this process, such as that of a lost GPU.
            The fit is left to another process, as if this one had been killed.
        observer: Told of each attempt.

    Raises:
        WorkerBrokenError: The handler raised one of `fatal`, or did not stop though its fit was
            cancelled or taken over; the process should exit.
    """
    name = new_worker_name()
    async with FitQueue(settings) as queue, ProgressBoard(settings) as board:
        runner = FitRunner(
            handler,
            expected,
            fatal,
            store,
            board,
            settings,
            name,
            stopping,
            observer or Unobserved(),
        )
        async with Sweeper(store, queue, board, name, settings.sweep_interval_s).sweeping():
            await queue.deliver(runner.run, worker_name=name, stopping=stopping)
        await _hand_back(queue, runner.released)
    if runner.broken is not None:
        raise WorkerBrokenError(str(runner.broken)) from runner.broken


def stop_on_signals(stopping: asyncio.Event) -> None:
    """Set `stopping` at SIGTERM or SIGINT; call it in the running event loop."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)


async def _hand_back(queue: FitQueue, fit_ids: Sequence[FitId]) -> None:
    for fit_id in fit_ids:
        try:
            await queue.enqueue(fit_id)
        except QueueUnavailableError as error:
            logger.warning("left to the sweeper: %s", error, extra={"fit": str(fit_id)})
