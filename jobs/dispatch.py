"""The queue of fits, kept by pydocket in Redis. What it loses, the sweeper puts back.

pydocket delivers at least once: a delivery whose worker dies is repeated after the lease, and its
key (the fit's id) makes duplicates in the queue collapse. It neither fences a worker that comes
back late nor stops a fit that kills every worker; the attempts in `ensembles` do both.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Self

from docket import Docket, Worker
from docket.execution import ExecutionState

from jobs.records import FitId
from jobs.redis_exchange import chunks, redis_exchange
from jobs.redis_keys import DOCKET_NAME
from jobs.settings import DeploymentSettings

TASK_NAME = "fit"
RECONNECTION_DELAY = timedelta(seconds=1)
# Nothing is ever scheduled for later; this is how often pydocket looks all the same.
SCHEDULING_RESOLUTION = timedelta(seconds=10)

# KEYS[1] stream; ARGV group, lease in ms. A worker that waits for fits looks several times a
# second, and what is pending of one that runs a fit keeps it. One that only hung is a consumer
# again with its next look.
_FORGET_WORKERS = """
local found = redis.pcall('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])
if found.err then return 0 end
local forgotten = 0
for _, pairs in ipairs(found) do
  local consumer = {}
  for i = 1, #pairs, 2 do consumer[pairs[i]] = pairs[i + 1] end
  if consumer.pending == 0 and consumer.idle > tonumber(ARGV[2]) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], consumer.name)
    forgotten = forgotten + 1
  end
end
return forgotten
"""


class FitQueue:
    """The queue. Use as an async context manager; Redis need not be up for that.

    `enqueue`, `enqueue_abandoned`, `forget_workers` and `depth` raise `QueueUnavailableError` if an
    exchange with Redis takes longer than `redis_timeout_s`; of many fits it is asked about some at
    a time.
    """

    def __init__(self, settings: DeploymentSettings) -> None:
        self._settings = settings
        self._docket = Docket(name=DOCKET_NAME, url=settings.redis_url)

    async def __aenter__(self) -> Self:
        await self._docket.__aenter__()
        self._docket.register(_not_run_here, names=[TASK_NAME])
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._docket.__aexit__(kind, error, trace)

    async def enqueue(self, fit_id: FitId) -> None:
        """Queue the fit, unless it is queued or running already."""
        async with self._exchange():
            await self._docket.add(TASK_NAME, key=str(fit_id))(str(fit_id))

    async def enqueue_abandoned(self, fit_ids: Sequence[FitId]) -> None:
        """Queue the fits, which have no heartbeat, unless they wait in the queue.

        That pydocket believes one to be running or queued is not enough: its message may be lost.
        """
        for chunk in chunks([str(fit_id) for fit_id in fit_ids]):
            waiting = await self._waiting(chunk)
            for key in chunk:
                if key not in waiting:
                    async with self._exchange():
                        await self._docket.replace(TASK_NAME, datetime.now(UTC), key=key)(key)

    async def _waiting(self, keys: Sequence[str]) -> set[str]:
        """Those of which a message is in the stream that no worker has taken."""
        message_ids = await self._message_ids(keys)
        async with (
            self._exchange(),
            self._docket.redis() as redis,
            redis.pipeline(transaction=False) as pipe,
        ):
            for message_id in message_ids.values():
                pipe.xrange(self._docket.stream_key, message_id, message_id)
            messages = await pipe.execute()
        return {key for key, found in zip(message_ids, messages, strict=True) if found}

    async def _message_ids(self, keys: Sequence[str]) -> dict[str, bytes]:
        """The message of each that pydocket believes to be queued."""
        async with (
            self._exchange(),
            self._docket.redis() as redis,
            redis.pipeline(transaction=False) as pipe,
        ):
            for key in keys:
                pipe.hgetall(self._docket.runs_key(key))
            runs = await pipe.execute()
        queued = ExecutionState.QUEUED.value.encode()
        return {
            key: run[b"stream_id"]
            for key, run in zip(keys, runs, strict=True)
            if run.get(b"state") == queued and b"stream_id" in run
        }

    async def forget_workers(self) -> int:
        """Forget the workers that hold no fit and were silent for a lease; return how many.

        pydocket never does, and each life of a worker has a name of its own.
        """
        lease_ms = int(self._settings.lease_s * 1000)
        stream, group = self._docket.stream_key, self._docket.worker_group_name
        async with (
            self._exchange(),
            self._docket.redis() as redis,
            redis.pipeline(transaction=False) as pipe,
        ):
            pipe.eval(_FORGET_WORKERS, 1, stream, group, lease_ms)
            (forgotten,) = await pipe.execute()
        return int(forgotten)

    async def depth(self) -> int:
        """Fits that are queued or running."""
        async with self._exchange(), self._docket.redis() as redis:
            return int(await redis.xlen(self._docket.stream_key))

    async def deliver(
        self,
        run_fit: Callable[[FitId], Awaitable[None]],
        *,
        worker_name: str,
        stopping: asyncio.Event,
    ) -> None:
        """Run fits one at a time, through any outage of Redis, until `stopping` is set.

        The fit that is running then is waited for, so `run_fit` must watch `stopping` too.

        Args:
            run_fit: Runs one fit; it should raise nothing, since all that is done with an error
                is to log it.
            worker_name: Unique in the deployment.
            stopping: Set it to return.
        """
        idle = asyncio.Event()
        idle.set()

        async def fit(fit_id: str) -> None:
            idle.clear()
            try:
                await run_fit(FitId.parse(fit_id))
            finally:
                idle.set()

        self._docket.register(fit, names=[TASK_NAME])
        async with Worker(
            self._docket,
            name=worker_name,
            concurrency=1,
            redelivery_timeout=timedelta(seconds=self._settings.lease_s),
            reconnection_delay=RECONNECTION_DELAY,
            scheduling_resolution=SCHEDULING_RESOLUTION,
            schedule_automatic_tasks=False,
        ) as worker:
            await _until_stopped(worker, stopping, idle, self._settings.redis_timeout_s)

    def _exchange(self) -> AbstractAsyncContextManager[None]:
        # pydocket's connections wait for ever, because some of them block on purpose.
        return redis_exchange(self._settings.redis_timeout_s)


async def _until_stopped(
    worker: Worker, stopping: asyncio.Event, idle: asyncio.Event, patience_s: float
) -> None:
    running = asyncio.create_task(worker.run_forever())
    stopped = asyncio.create_task(stopping.wait())
    await asyncio.wait({running, stopped}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    running.cancel()  # pydocket takes this as: finish what is running, then return
    while not (await asyncio.wait({running}, timeout=patience_s))[0]:
        if idle.is_set():
            running.cancel()  # it is bidding farewell to a Redis that hangs
    try:
        running.result()
    except asyncio.CancelledError:
        if not stopping.is_set():
            raise


async def _not_run_here(fit_id: str) -> None:
    """Stand for the task in a process that only queues it."""
    raise AssertionError(f"{fit_id} was delivered to a process that runs no fits")
