"""Recording what came of an attempt, however long the store takes to accept it."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from jobs.ensembles import EnsembleStore
from jobs.errors import (
    STORE_AWAY,
    FenceLostError,
    FitEndedError,
    FitNotFoundError,
    InputsUnavailableError,
    NotRecordedError,
)
from jobs.failures import UNEXPECTED, describe_failure
from jobs.records import FitAttempt, FitId, FitOutcome, FitResultDocs
from prompt_store.errors import (
    NotFoundError,
    PromptStoreError,
    StoreFullError,
    StoreUnavailableError,
)

logger = logging.getLogger(__name__)

# A fit that took an hour is worth waiting an hour for a store that is away, or for somebody to make
# room in one that is full: whatever else this worker could compute would have to wait as well.
PUBLISH_RETRY_DELAYS_S = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, *(60.0,) * 60)
# A fit that is not found may be on a volume that is about to come back, as when a full one is
# replaced by a larger one, or gone for good: so often in a row, from the start for a minute.
MAX_RETRIES_IF_NOT_FOUND = 7
LOOK_INTERVAL_S = 0.5


@dataclass(frozen=True)
class Patience:
    """What a worker does while it waits for the store.

    Attributes:
        is_over: Says whether to try once more and then give up, because the worker is to exit or
            the fit has ended without it. Asked twice a second.
        tell: Told before each wait what is waited for, in words for users.
    """

    is_over: Callable[[], bool]
    tell: Callable[[str], Awaitable[None]]


async def record_result(
    store: EnsembleStore,
    fit_id: FitId,
    attempt: FitAttempt,
    docs: FitResultDocs,
    patience: Patience,
) -> FitOutcome | None:
    """Record a success; None if the store cannot take it, now or later.

    Raises:
        NotRecordedError: The store would not take it for an hour, or until patience was over.
        FenceLostError, FitEndedError: It came too late.
    """
    publish = partial(store.publish_result, fit_id, attempt, docs)
    return await _record(publish, fit_id, attempt, PUBLISH_RETRY_DELAYS_S, patience)


async def record_failure(
    store: EnsembleStore,
    fit_id: FitId,
    attempt: FitAttempt,
    error: BaseException,
    expected: tuple[type[Exception], ...],
    patience: Patience,
) -> FitOutcome | None:
    """Record what the handler raised; None if the store would not take it.

    Raises:
        InputsUnavailableError: It is no failure of the fit, which is to run again later.
        FenceLostError, FitEndedError: It came too late.
    """
    log = _log(fit_id, attempt)
    if isinstance(error, StoreUnavailableError):
        logger.warning("the fit will run again, its inputs are away: %s", error, extra=log)
        raise InputsUnavailableError(str(error)) from error
    # The inputs of a request that was acknowledged are never deleted: if they are not found, the
    # store may be away, and then so is the fit itself. Waiting for it would hide that.
    delays_s = () if isinstance(error, NotFoundError) else PUBLISH_RETRY_DELAYS_S
    told = describe_failure(error, expected)
    if told.type == UNEXPECTED:
        logger.error("the fit handler failed", exc_info=error, extra=log)
    publish = partial(store.publish_failure, fit_id, attempt, told)
    try:
        return await _record(publish, fit_id, attempt, delays_s, patience)
    except NotRecordedError:
        return None


async def _record(
    publish: Callable[[], FitOutcome],
    fit_id: FitId,
    attempt: FitAttempt,
    retry_delays_s: Sequence[float],
    patience: Patience,
) -> FitOutcome | None:
    log = _log(fit_id, attempt)
    try:
        return await _patiently(publish, retry_delays_s, patience, log)
    except (FenceLostError, FitEndedError) as error:
        logger.warning("late finish refused: %s", error, extra=log)
        raise
    except STORE_AWAY as error:
        logger.error("not recorded, the fit will run again: %s", error, extra=log)  # noqa: TRY400
        raise NotRecordedError(str(error)) from error
    except PromptStoreError as error:
        logger.error("not recorded, the attempt is lost: %s", error, extra=log)  # noqa: TRY400
    return None


async def _patiently(
    publish: Callable[[], FitOutcome],
    retry_delays_s: Sequence[float],
    patience: Patience,
    log: Mapping[str, object],
) -> FitOutcome:
    not_found = 0
    for delay_s in retry_delays_s:
        try:
            return await asyncio.to_thread(publish)
        except STORE_AWAY as error:
            not_found = not_found + 1 if isinstance(error, FitNotFoundError) else 0
            if not_found > MAX_RETRIES_IF_NOT_FOUND:
                raise
            logger.warning("recording again in %g s: %s", delay_s, error, extra=log)
            is_full = isinstance(error, StoreFullError)
            await patience.tell("room in the store" if is_full else "the store")
        await _pause(delay_s, patience)
        if patience.is_over():
            break
    return await asyncio.to_thread(publish)


async def _pause(delay_s: float, patience: Patience) -> None:
    left_s = delay_s
    while left_s > 0 and not patience.is_over():
        await asyncio.sleep(min(left_s, LOOK_INTERVAL_S))
        left_s -= LOOK_INTERVAL_S


def _log(fit_id: FitId, attempt: FitAttempt) -> dict[str, object]:
    return {"fit": str(fit_id), "attempt": attempt.attempt, "worker": attempt.worker}
