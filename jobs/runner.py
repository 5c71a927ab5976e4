"""One fit in one worker: claim it, run the handler in a thread, keep the claim, record the end."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from jobs.conclusion import Patience, record_failure, record_result
from jobs.context import FitContext, StopReason
from jobs.ensembles import EnsembleStore
from jobs.errors import (
    STORE_AWAY,
    FenceLostError,
    FitEndedError,
    FitHeldError,
    FitNotFoundError,
    HandlerStuckError,
    InputsUnavailableError,
    JobsError,
    NotRecordedError,
    QueueUnavailableError,
)
from jobs.keepalive import Reporter, kept_alive
from jobs.observer import AttemptEnd, AttemptReport, FitObserver
from jobs.progress import ProgressBoard
from jobs.records import FitAttempt, FitId, FitOutcome, FitRequest, FitResultDocs, Progress
from jobs.settings import DeploymentSettings
from jobs.tracing import record_attempt
from prompt_store.errors import CorruptDocumentError, StoreUnavailableError, UnknownDocumentError

logger = logging.getLogger(__name__)

LOOK_INTERVAL_S = 0.5
REST_S = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0)
"""How long a worker takes no fit after so many in a row whose inputs it could not read."""

FitHandler = Callable[[FitContext], FitResultDocs]
Answer = FitResultDocs | BaseException | None
"""What a handler returned or raised; None if its thread was abandoned."""


@dataclass
class _Observed:
    """How an attempt ended, once that is known."""

    end: AttemptEnd = "unrecorded"


@dataclass
class FitRunner:
    """Runs fits with a handler, one at a time.

    Attributes:
        handler: Computes a fit, synchronously; see `jobs.worker.run_worker`.
        expected: Classes of its exceptions whose messages are for users.
        fatal: Classes of its exceptions after which this process can run no fit.
        stopping: Once set, the running fit is asked to stop and is handed back.
        observer: Told of each attempt.
        released: Fits handed back; they are to be queued again.
        broken: Why this process can run no more fits: a fatal exception, or a handler that did not
            stop when it was told to.
    """

    handler: FitHandler
    expected: tuple[type[Exception], ...]
    fatal: tuple[type[Exception], ...]
    store: EnsembleStore
    board: ProgressBoard
    settings: DeploymentSettings
    worker_name: str
    stopping: asyncio.Event
    observer: FitObserver
    released: list[FitId] = field(default_factory=list[FitId])
    broken: Exception | None = None
    _unread_in_a_row: int = 0

    async def run(self, fit_id: FitId) -> None:
        """Run one delivery of a fit to its end, if it is there to be run."""
        claimed = await self._claim(fit_id)
        if claimed is None:
            return
        request, attempt = claimed
        context = FitContext(request, attempt)
        with self._observed(context) as observed:
            async with kept_alive(context, self.board, self.store, self.settings) as reporter:
                answer, reason = await self._handle(context)
                await reporter.send(context.take_reports())
                outcome, put_off = None, None
                patience = self._patience(context, reporter)
                try:
                    outcome = await self._record(fit_id, attempt, answer, reason, patience)
                except (NotRecordedError, InputsUnavailableError) as error:
                    put_off = error
                except FenceLostError:
                    context.stop("overtaken")
                except FitEndedError:
                    context.stop("ended")
                reason = context.stop_reason
            observed.end = _end(outcome, reason)
        if outcome is None and reason == "shutdown":
            self.released.append(fit_id)
            await self._release(fit_id, attempt, reporter)
        elif put_off is not None and reason is None:
            # No worker was lost; the next sweep queues it again.
            await self._release(fit_id, attempt, reporter, put_off)
        await self._sign_off(fit_id, attempt, outcome)
        await self._rest(put_off)

    @contextmanager
    def _observed(self, context: FitContext) -> Generator["_Observed"]:
        """Log and report an attempt, however it ends."""
        fit_id, attempt = context.request.fit_id, context.attempt
        log = {"fit": str(fit_id), "attempt": attempt, "worker": self.worker_name}
        logger.info("fit begins", extra=log)
        began_s = time.monotonic()
        self.observer.attempt_began()
        observed = _Observed()
        try:
            yield observed
        finally:
            seconds = time.monotonic() - began_s
            method, stages = context.request.method, context.stage_runs()
            report = AttemptReport(fit_id, attempt, method, observed.end, seconds, stages)
            self.observer.attempt_ended(report)
            record_attempt(report)
            logger.info("fit ends: %s", observed.end, extra=log)

    async def _claim(self, fit_id: FitId) -> tuple[FitRequest, FitAttempt] | None:
        """Begin the next attempt, unless the fit is not to be run, or not to be run here now."""
        log = {"fit": str(fit_id), "worker": self.worker_name}
        try:
            if await self._is_held(fit_id):
                raise FitHeldError(f"{fit_id} is running elsewhere")  # noqa: TRY301
            request = await asyncio.to_thread(self._request, fit_id)
            attempt = await asyncio.to_thread(self.store.claim_attempt, fit_id, self.worker_name)
            if request is not None:
                return request, attempt
            logger.error("its request is damaged, the attempt is lost", extra=log)
        except FitEndedError as error:
            logger.info("not run: %s", error, extra=log)
            await self._sign_off(fit_id, None, await asyncio.to_thread(self.store.outcome, fit_id))
        except (FitHeldError, FitNotFoundError) as error:
            logger.info("not run: %s", error, extra=log)
        except UnknownDocumentError as error:
            logger.error("left to a worker that understands it: %s", error, extra=log)  # noqa: TRY400
        except (QueueUnavailableError, StoreUnavailableError) as error:
            logger.warning("not run now, the sweeper will queue it again: %s", error, extra=log)
        return None

    def _request(self, fit_id: FitId) -> FitRequest | None:
        """What is asked for; None if it is damaged, so that no worker can read it.

        Raises:
            UnknownDocumentError: A newer worker may understand it.
        """
        try:
            return self.store.request(fit_id)
        except UnknownDocumentError:
            raise
        except CorruptDocumentError:
            return None

    async def _is_held(self, fit_id: FitId) -> bool:
        state = await asyncio.to_thread(self.store.state, fit_id)
        look = self.board.silent if state.held else self.board.without_beat
        return not await look([fit_id])

    async def _handle(self, context: FitContext) -> tuple[Answer, StopReason | None]:
        """Run the handler; what came of it, and why it was asked to stop if it was."""
        answer = asyncio.wrap_future(_in_thread(self.handler, context))
        told = asyncio.create_task(self._until_told_to_stop(context))
        try:
            await asyncio.wait({answer, told}, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                await asyncio.wait({answer}, timeout=self.settings.fit_stop_grace_s)
            return answer.result() if answer.done() else None, context.stop_reason
        finally:
            told.cancel()
            if not answer.done():
                context.stop("shutdown")  # so that an abandoned thread stops at last

    async def _until_told_to_stop(self, context: FitContext) -> None:
        """Return once the handler has been told to stop, for whatever reason."""
        while not (self.stopping.is_set() or context.should_stop()):
            with suppress(TimeoutError):
                await asyncio.wait_for(self.stopping.wait(), LOOK_INTERVAL_S)
        context.stop("shutdown")  # unless there is another reason

    async def _record(
        self,
        fit_id: FitId,
        attempt: FitAttempt,
        answer: Answer,
        reason: StopReason | None,
        patience: Patience,
    ) -> FitOutcome | None:
        if isinstance(answer, FitResultDocs):
            return await record_result(self.store, fit_id, attempt, answer, patience)
        if isinstance(answer, self.fatal):
            self._break(answer, fit_id, attempt)
            return None
        if answer is None and not self.stopping.is_set():
            grace_s = self.settings.fit_stop_grace_s
            stuck = HandlerStuckError(f"{fit_id} went on for {grace_s:g} s after it was to stop")
            self._break(stuck, fit_id, attempt)
        if answer is None or reason is not None:
            return None
        return await record_failure(self.store, fit_id, attempt, answer, self.expected, patience)

    def _patience(self, context: FitContext, reporter: Reporter) -> Patience:
        """How the end of a fit waits for the store: visibly, and not for longer than it matters."""

        def is_over() -> bool:
            if self.stopping.is_set():
                context.stop("shutdown")
            return context.should_stop()

        async def tell(what: str) -> None:
            details = {"waits_for": what}
            report = Progress(
                status="running", attempt=context.attempt, stage="publish", details=details
            )
            await reporter.send([report])

        return Patience(is_over, tell)

    def _break(self, error: Exception, fit_id: FitId, attempt: FitAttempt) -> None:
        """Stop the worker; a fit that has not ended counts as lost by it: it may be the cause."""
        log = {"fit": str(fit_id), "attempt": attempt.attempt, "worker": self.worker_name}
        logger.critical("this process can run no more fits", exc_info=error, extra=log)
        self.broken = error
        self.stopping.set()

    async def _release(
        self,
        fit_id: FitId,
        attempt: FitAttempt,
        reporter: Reporter,
        why: JobsError | None = None,
    ) -> None:
        unread = isinstance(why, InputsUnavailableError)
        release = self.store.release_unread if unread else self.store.release_attempt
        try:
            await asyncio.to_thread(release, fit_id, attempt)
        except STORE_AWAY as error:
            logger.warning("counted as lost: %s", error, extra={"fit": str(fit_id)})
        await reporter.send([Progress(status="queued", attempt=attempt.attempt)])

    async def _rest(self, put_off: JobsError | None) -> None:
        """Wait before the next fit, if this worker could not read the last one's inputs.

        It may be the only one that cannot, so meanwhile the fits are left to others.
        """
        if not isinstance(put_off, InputsUnavailableError):
            self._unread_in_a_row = 0
            return
        rest_s = REST_S[min(self._unread_in_a_row, len(REST_S) - 1)]
        self._unread_in_a_row += 1
        logger.warning("next fit in %g s: %s", rest_s, put_off, extra={"worker": self.worker_name})
        with suppress(TimeoutError):
            await asyncio.wait_for(self.stopping.wait(), rest_s)

    async def _sign_off(
        self, fit_id: FitId, attempt: FitAttempt | None, outcome: FitOutcome | None
    ) -> None:
        try:
            if attempt is not None:
                await self.board.drop_beat(fit_id, attempt.attempt)
            if outcome is not None:
                await self.board.post(fit_id, Progress.of_outcome(outcome))
        except QueueUnavailableError as error:
            # The beat expires by itself, and readers find the outcome in the store.
            logger.debug("not announced: %s", error, extra={"fit": str(fit_id)})


def _end(outcome: FitOutcome | None, reason: StopReason | None) -> AttemptEnd:
    if outcome is not None:
        return outcome.status
    if reason is None:
        return "unrecorded"
    return "cancelled" if reason == "ended" else reason


def _in_thread(handler: FitHandler, context: FitContext) -> Future[Answer]:
    """Start the handler; what it raises is a value, because no future carries StopIteration."""
    future: Future[Answer] = Future()

    def run() -> None:
        try:
            future.set_result(handler(context))
        except BaseException as error:  # noqa: BLE001 (it is reported as the fit's failure)
            future.set_result(error)

    # A daemon, so that a handler that does not stop cannot keep the process from exiting.
    threading.Thread(target=run, name=f"fit {context.request.fit_id}", daemon=True).start()
    return future
