"""Who is alive and how far a fit is, through Redis. The keys are described in `redis_keys`.

Nothing here is needed for correctness: without Redis, statuses are coarser and events arrive late.

Redis keeps the moment at which a key expires by the clock of its host. When that is set back, what
was written before seems to last for so much longer. So a key with more time left than it is ever
given counts as expired; whoever is alive writes it anew, within a heartbeat.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, cast

from pydantic import ValidationError
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from jobs.records import FitId, Progress
from jobs.redis_exchange import chunks, redis_exchange
from jobs.redis_keys import SWEEP_KEY, beat_key, events_key
from jobs.settings import DeploymentSettings

logger = logging.getLogger(__name__)

MAX_EVENTS = 2_000

# KEYS[1] beat; ARGV attempt, lease in ms. A zombie's beat must not hide that of its successor.
_BEAT = """
local holder = redis.call('GET', KEYS[1])
if holder and tonumber(holder) > tonumber(ARGV[1]) then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""

# KEYS[1] turn; ARGV sweeper, time until the next turn in ms.
_TAKE_SWEEP = """
local left = redis.call('PTTL', KEYS[1])
if left >= 0 and left <= tonumber(ARGV[2]) then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""

# KEYS[1] beat; ARGV attempt.
_DROP_BEAT = """
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
"""


@dataclass(frozen=True)
class Standing:
    """What Redis knows of a fit.

    Attributes:
        running_attempt: The attempt that was heard of within the lease, if any.
        latest: The newest event, if one is kept and can be read.
    """

    running_attempt: int | None
    latest: Progress | None


class ProgressBoard:
    """Heartbeats and events of fits. Use as an async context manager.

    Every method raises `QueueUnavailableError` if Redis does not answer within `redis_timeout_s`;
    those that take any number of fits ask for some at a time.
    """

    def __init__(self, settings: DeploymentSettings) -> None:
        self._settings = settings
        self._lease_ms = int(settings.lease_s * 1000)
        # One retry, because a connection from before a restart of Redis fails on its first use; no
        # retry of a time-out, because that would double the wait.
        self._redis = Redis.from_url(
            settings.redis_url,
            decode_responses=True,
            # Given a time-out, redis-py sends through `asyncio.wait_for`, which before Python 3.12
            # can lose a cancellation of its caller; `_connected` limits the whole exchange instead.
            socket_timeout=None,
            socket_connect_timeout=settings.redis_timeout_s,
            retry=Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._redis.aclose()

    async def ping(self) -> None:
        """Return if Redis answers."""
        async with self._connected() as redis:
            await redis.ping()

    async def beat(self, fit_id: FitId, attempt: int) -> bool:
        """Say that the attempt is running; False if a newer attempt is running instead."""
        async with self._connected() as redis:
            return bool(await redis.eval(_BEAT, 1, beat_key(fit_id), attempt, self._lease_ms))

    async def drop_beat(self, fit_id: FitId, attempt: int) -> None:
        """Say that the attempt has stopped."""
        async with self._connected() as redis:
            await redis.eval(_DROP_BEAT, 1, beat_key(fit_id), attempt)

    async def without_beat(self, fit_ids: Sequence[FitId]) -> list[FitId]:
        """Those of the fits that nobody is heard to run."""
        found: list[FitId] = []
        for chunk in chunks(fit_ids):
            async with self._connected() as redis, redis.pipeline(transaction=False) as pipe:
                for fit_id in chunk:
                    pipe.pttl(beat_key(fit_id))
                left_ms = await pipe.execute()
            pairs = zip(chunk, left_ms, strict=True)
            found.extend(fit_id for fit_id, left in pairs if not self._lasts(left))
        return found

    async def silent(self, fit_ids: Sequence[FitId]) -> list[FitId]:
        """Those of the fits that nobody runs, even if Redis lost every beat a moment ago.

        Takes two looks; between them every worker that is alive beats again.
        """
        suspects = await self.without_beat(fit_ids)
        if suspects:
            await asyncio.sleep(2 * self._settings.heartbeat_s)
        return await self.without_beat(suspects)

    async def post(self, fit_id: FitId, progress: Progress) -> bool:
        """Append an event; False if its id is not newer than the newest, so it came too late.

        Args:
            fit_id: The fit.
            progress: The event; its `id` must be set.
        """
        key = events_key(fit_id)
        fields = {"progress": progress.model_dump_json(exclude={"id"}, exclude_none=True)}
        async with self._connected() as redis:
            try:
                await redis.xadd(key, cast("Any", fields), id=progress.id or "*", maxlen=MAX_EVENTS)
            except ResponseError as error:
                if "equal or smaller" in str(error):
                    return False
                raise
            await redis.pexpire(key, int(self._settings.progress_ttl_s * 1000))
        return True

    async def standing(self, fit_ids: Sequence[FitId]) -> list[Standing]:
        """Who runs each of the fits, and its newest event."""
        found: list[Standing] = []
        for chunk in chunks(fit_ids):
            async with self._connected() as redis, redis.pipeline(transaction=False) as pipe:
                for fit_id in chunk:
                    pipe.get(beat_key(fit_id))
                    pipe.pttl(beat_key(fit_id))
                    pipe.xrevrange(events_key(fit_id), count=1)
                answers = await pipe.execute()
            triples = zip(answers[::3], answers[1::3], answers[2::3], strict=True)
            found.extend(self._standing(*triple) for triple in triples)
        return found

    async def after(self, fit_id: FitId, last_id: str | None) -> list[Progress]:
        """Every event that is kept and newer than `last_id`, in order; all of them for None.

        What cannot be read is left out, and fields that a newer worker may have added.
        """
        start = "-" if last_id is None else f"({last_id}"
        async with self._connected() as redis:
            entries = cast("_Entries", await redis.xrange(events_key(fit_id), min=start))
        return _readable(entries)

    async def take_sweep(self, sweeper: str) -> bool:
        """Whether it is this sweeper's turn; at most one of a deployment sweeps per interval."""
        # A little less than the interval, so that the same sweeper finds it expired next time.
        turn_ms = max(1, int(self._settings.sweep_interval_s * 900))
        async with self._connected() as redis:
            return bool(await redis.eval(_TAKE_SWEEP, 1, SWEEP_KEY, sweeper, turn_ms))

    def _standing(self, beat: str | None, left_ms: int, entries: "_Entries") -> Standing:
        return Standing(
            running_attempt=int(beat) if beat is not None and self._lasts(left_ms) else None,
            latest=next(iter(_readable(entries)), None),
        )

    def _lasts(self, left_ms: int) -> bool:
        """Whether a beat has not expired; what Redis says is negative if there is none."""
        return 0 <= left_ms <= self._lease_ms

    @asynccontextmanager
    async def _connected(self) -> AsyncGenerator[Redis]:
        async with redis_exchange(self._settings.redis_timeout_s):
            yield self._redis


_Entries = list[tuple[str, dict[str, str]]]


def _readable(entries: _Entries) -> list[Progress]:
    found: list[Progress] = []
    for event_id, fields in entries:
        try:
            progress = Progress.model_validate_json(fields.get("progress", ""), extra="ignore")
        except ValidationError as error:
            logger.debug("no event: %s", error)
            continue
        found.append(progress.model_copy(update={"id": event_id}))
    return found
