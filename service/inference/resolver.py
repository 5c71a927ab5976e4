"""Which artifact a name or an alias means right now."""

import asyncio
import logging
import random
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from jobs.ensembles import EnsembleStore
from jobs.errors import STORE_AWAY, EnsembleDeletedError
from jobs.records import FitId
from prompt_store.aliases import Move
from prompt_store.errors import NotFoundError
from prompt_store.names import AliasReference, NameReference
from prompt_store.splits import drawn_version, keyed_version
from service.inference.errors import NothingToServeError

logger = logging.getLogger(__name__)

MAX_CACHED_NAMES = 10_000

PATIENCE_S = 2.0
"""How long a look may take before the last known answer stands in for it."""

MAX_READERS = 4
"""Threads that look up at once: a store far away answers one by one."""

MAX_LOOKS = 32
"""As many are looked up on one way to a thread and back, which takes longer than a look."""

Reference = NameReference | AliasReference

_GONE = (NotFoundError, EnsembleDeletedError, NothingToServeError)


@dataclass(frozen=True)
class Served:
    """The version of an ensemble that answers a request."""

    name: str
    version: int
    digest: str


@dataclass(frozen=True)
class _Target:
    """What a reference means: versions with weights that sum to 1; an alias's last move."""

    served: Mapping[int, Served]
    weights: Mapping[int, float]
    move: Move | None = None


@dataclass(frozen=True)
class _Known:
    target: _Target
    until_s: float


@dataclass(frozen=True, eq=False)
class _Look:
    """A reference that is being looked up, and what it meant before."""

    key: Reference
    before: _Target | None
    since_s: float
    answer: asyncio.Future[_Target]


class Resolver:
    """Looks references up in the store and remembers the answer for a moment.

    A success, a deletion and the move of an alias show within `ttl_s` after they were recorded.
    While the store is down, or takes longer than `PATIENCE_S`, the last answer stands, so that
    resident artifacts go on serving. Used on the event loop only.

    Args:
        ensembles: The durable fits and their aliases; read on threads.
        ttl_s: How long an answer is trusted.
        rng: Draws a version for requests to an alias that is split between several.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        ensembles: EnsembleStore,
        *,
        ttl_s: float,
        rng: random.Random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ensembles = ensembles
        self._ttl_s = ttl_s
        self._rng = rng
        self._clock = clock
        self._known: OrderedDict[Reference, _Known] = OrderedDict()
        self._looking: dict[Reference, _Look] = {}
        self._waiting: list[_Look] = []
        self._readers: set[asyncio.Task[None]] = set()

    async def resolve(self, reference: Reference, assignment_key: str | None = None) -> Served:
        """Return the version for one request.

        Args:
            reference: A version, a bare name for the last one that succeeded, or an alias.
            assignment_key: Requests with the same key get the same version of a split alias, as
                long as its weights stay; without one, each request is drawn by itself.

        Raises:
            FitNotFoundError: There is no such ensemble or version, or it has been deleted.
            NotFoundError: There is no such alias.
            NothingToServeError: It exists and has not succeeded.
            StoreUnavailableError: The store is down and no earlier answer is known.
        """
        target = await self._target(reference)
        if not isinstance(reference, AliasReference):
            return next(iter(target.served.values()))
        if assignment_key is None:
            version = drawn_version(target.weights, self._rng.random())
        else:
            version = keyed_version(target.weights, str(reference), assignment_key)
        return target.served[version]

    def has_served(self, reference: Reference) -> bool:
        """Whether there was something to serve when the reference was last looked up."""
        return reference in self._known

    def last_known(self, reference: NameReference) -> Served | None:
        """Return what a name meant when it was last looked up; None if that is not known."""
        known = self._known.get(reference)
        return None if known is None else next(iter(known.target.served.values()))

    def forget(self, name: str, alias: str | None = None) -> None:
        """Look a bare name or an alias up anew next time, because it is known to have changed."""
        key = NameReference(name, None) if alias is None else AliasReference(name, alias)
        if key in self._known:
            self._known[key] = replace(self._known[key], until_s=float("-inf"))
        self._looking.pop(key, None)  # it may have looked too early

    def forget_deleted(self, name: str) -> None:
        """Forget everything about an ensemble, because it is known to have been deleted."""
        for known in (self._known, self._looking):
            for key in [key for key in known if key.name == name]:
                del known[key]

    async def _target(self, key: Reference) -> _Target:
        known = self._known.get(key)
        if known is not None and self._clock() < known.until_s:
            return known.target
        look = self._looking.get(key) or self._begin(key, known)
        # Shielded: other requests may be waiting for the same answer.
        if known is None:
            return await asyncio.shield(look.answer)
        patience_s = look.since_s + PATIENCE_S - self._clock()
        if patience_s <= 0:
            return known.target  # whoever began to wait before has said so in the log
        try:
            async with asyncio.timeout(patience_s):
                return await asyncio.shield(look.answer)
        except EnsembleDeletedError:
            raise
        except (*STORE_AWAY, TimeoutError) as error:
            why = str(error) or f"no answer within {PATIENCE_S:g} s"
            logger.warning(
                "store unavailable, serving the last known version: %s",
                why,
                extra={"ensemble": key.name},
            )
            if self._known.get(key) is known:  # the store is asked again after as long as usual
                self._known[key] = replace(known, until_s=self._clock() + self._ttl_s)
            return known.target

    def _begin(self, key: Reference, known: _Known | None) -> _Look:
        before = None if known is None else known.target
        answer = asyncio.get_running_loop().create_future()
        look = self._looking[key] = _Look(key, before, self._clock(), answer)
        self._waiting.append(look)
        if len(self._readers) < MAX_READERS:
            reader = asyncio.create_task(self._read_waiting())
            self._readers.add(reader)
            reader.add_done_callback(self._readers.discard)
        return look

    async def _read_waiting(self) -> None:
        while self._waiting:
            looks, self._waiting = self._waiting[:MAX_LOOKS], self._waiting[MAX_LOOKS:]
            started_s = self._clock()
            try:
                answers = await asyncio.to_thread(self._read_all, looks)
            except Exception as error:  # noqa: BLE001 - no thread, say: whoever waits is told
                answers = [error] * len(looks)
            for look, answer in zip(looks, answers, strict=True):
                self._settle(look, answer, until_s=started_s + self._ttl_s)

    def _settle(self, look: _Look, answer: _Target | Exception, *, until_s: float) -> None:
        current = self._looking.get(look.key) is look  # else it was told to forget meanwhile
        if current:
            del self._looking[look.key]
        if isinstance(answer, Exception):
            if isinstance(answer, _GONE):
                self._known.pop(look.key, None)  # what was deleted must not come back
            look.answer.set_exception(answer)
            look.answer.exception()  # whoever asked may have gone
            return
        if current:
            self._remember(look.key, _Known(answer, until_s))
        look.answer.set_result(answer)

    def _remember(self, key: Reference, known: _Known) -> None:
        self._known[key] = known
        self._known.move_to_end(key)
        while len(self._known) > MAX_CACHED_NAMES:
            self._known.popitem(last=False)

    def _read_all(self, looks: Sequence[_Look]) -> list[_Target | Exception]:
        return [self._read_or_error(look) for look in looks]

    def _read_or_error(self, look: _Look) -> _Target | Exception:
        try:
            return self._read(look.key, look.before)
        except Exception as error:  # noqa: BLE001 - raised where it is awaited
            return error

    def _read(self, key: Reference, known: _Target | None) -> _Target:
        if isinstance(key, AliasReference):
            return self._read_alias(key, known)
        if key.version is not None:
            return self._read_fixed(FitId(key.name, key.version), known)
        before = None if known is None else FitId(key.name, next(iter(known.served)))
        current = self._ensembles.current(key.name, known=before)
        return known if known is not None and current == before else self._only(current)

    def _read_fixed(self, fit_id: FitId, known: _Target | None) -> _Target:
        """A version that succeeded stays what it is until it is deleted."""
        if known is None:
            return self._only(fit_id)
        self._ensembles.check_living(fit_id)
        return known

    def _only(self, fit_id: FitId) -> _Target:
        return _Target({fit_id.version: self._read_version(fit_id)}, {fit_id.version: 1.0})

    def _read_alias(self, key: AliasReference, known: _Target | None) -> _Target:
        before = None if known is None else known.move
        move = self._ensembles.aliases.current(key.name, key.alias, known=before)
        if known is not None and move is before:
            return known
        weights = {} if move.split is None else move.split.weights
        served = {each: self._read_version(FitId(key.name, each)) for each in weights}
        return _Target(served, weights, move)

    def _read_version(self, fit_id: FitId) -> Served:
        self._ensembles.check_living(fit_id)
        outcome = self._ensembles.outcome(fit_id)
        if outcome is None:
            raise NothingToServeError(f"ensemble {fit_id} is unfinished; it cannot be used yet")
        if outcome.artifact_digest is None:
            raise NothingToServeError(f"ensemble {fit_id} is {outcome.status}; it serves nothing")
        return Served(fit_id.name, fit_id.version, outcome.artifact_digest)
