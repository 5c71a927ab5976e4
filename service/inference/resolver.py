"""Which artifact a name means right now."""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from jobs.ensembles import EnsembleStore
from jobs.records import FitId
from prompt_store.errors import StoreUnavailableError
from service.inference.errors import NothingToServeError

logger = logging.getLogger(__name__)

MAX_CACHED_NAMES = 10_000


@dataclass(frozen=True)
class Served:
    """The version of an ensemble that answers a request."""

    name: str
    version: int
    digest: str


@dataclass(frozen=True)
class _Known:
    served: Served
    until_s: float


class Resolver:
    """Looks names up in the store and remembers the answer for a moment.

    A success shows within `ttl_s` after it was recorded. While the store is down the last answer
    stands, so that resident artifacts go on serving. Used on the event loop only.

    Args:
        ensembles: The durable fits; read on threads.
        ttl_s: How long an answer for a bare name is trusted.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        ensembles: EnsembleStore,
        *,
        ttl_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ensembles = ensembles
        self._ttl_s = ttl_s
        self._clock = clock
        self._known: OrderedDict[tuple[str, int | None], _Known] = OrderedDict()
        self._looking: dict[tuple[str, int | None], asyncio.Task[Served]] = {}

    async def resolve(self, name: str, version: int | None) -> Served:
        """Return the version asked for, or the last one that succeeded.

        Raises:
            FitNotFoundError: There is no such ensemble or version.
            NothingToServeError: It exists and has not succeeded.
            StoreUnavailableError: The store is down and no earlier answer is known.
        """
        key = (name, version)
        known = self._known.get(key)
        if known is not None and self._clock() < known.until_s:
            return known.served
        if key not in self._looking:
            self._looking[key] = asyncio.create_task(self._look_up(key))
            self._looking[key].add_done_callback(lambda task: self._looked(key, task))
        try:
            # Shielded: other requests may be waiting for the same answer.
            return await asyncio.shield(self._looking[key])
        except StoreUnavailableError:
            if known is None:
                raise
            logger.warning("store unavailable, serving the last known version", exc_info=True)
            return known.served

    def forget(self, name: str) -> None:
        """Look the bare name up anew next time, because a version of it is known to have ended."""
        self._known.pop((name, None), None)
        self._looking.pop((name, None), None)  # it may have looked too early

    async def _look_up(self, key: tuple[str, int | None]) -> Served:
        started_s = self._clock()
        served = await asyncio.to_thread(self._read, *key)
        if self._looking.get(key) is not asyncio.current_task():
            return served  # it was told to forget meanwhile
        # A version that succeeded stays so for ever; what a bare name means may change.
        trusted_s = self._ttl_s if key[1] is None else float("inf")
        self._known[key] = _Known(served, started_s + trusted_s)
        self._known.move_to_end(key)
        while len(self._known) > MAX_CACHED_NAMES:
            self._known.popitem(last=False)
        return served

    def _looked(self, key: tuple[str, int | None], task: asyncio.Task[Served]) -> None:
        if self._looking.get(key) is task:
            del self._looking[key]

    def _read(self, name: str, version: int | None) -> Served:
        fit_id = self._ensembles.current(name) if version is None else FitId(name, version)
        outcome = self._ensembles.outcome(fit_id)
        if outcome is None:
            self._ensembles.request(fit_id)  # raises if there is no such version
        if outcome is None or outcome.artifact_digest is None:
            status = "unfinished" if outcome is None else outcome.status
            raise NothingToServeError(f"ensemble {fit_id} is {status}; it cannot be used yet")
        return Served(name, fit_id.version, outcome.artifact_digest)
