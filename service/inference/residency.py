"""Which artifacts are on the device: loaded on first use, pinned while in use."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass

from prompt_store.artifacts import Artifact
from service.inference.bank import ArtifactBank, BankEntry
from service.inference.errors import ArtifactMismatchError
from service.inference.host_artifact import HostArtifact, host_artifact
from service.inference.lru_bytes import LruBytes
from service.inference.observer import InferenceObserver

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ResidencyBudgets:
    """How much memory artifacts may take while nobody uses them.

    Attributes:
        device_bytes: On the device, those in use included.
        host_bytes: In main memory, besides.
    """

    device_bytes: int
    host_bytes: int


class Residency:
    """Keeps artifacts where they are soon at hand. Used on the event loop only.

    An artifact in use is pinned on the device. One that nobody uses stays there until the device's
    budget is needed for others, then in main memory until that budget is, and is then read from
    the store again. Everything slow runs on the executors, beside the forward passes, and copies
    do not queue behind reads from the store. The device's budget is exceeded while more is in use
    at once than it allows.

    Args:
        bank: Copies artifacts to the device and back.
        load: Fetches and checks an artifact by digest; runs on `loaders`.
        loaders: Threads that read the store.
        copiers: Threads that copy to and from the device.
        backbone_digest: The loaded backbone; artifacts of another one are refused.
        budgets: How much may stay.
        observer: Told of loads and evictions.
    """

    def __init__(
        self,
        bank: ArtifactBank,
        load: Callable[[str], Artifact],
        *,
        loaders: Executor,
        copiers: Executor,
        backbone_digest: str,
        budgets: ResidencyBudgets,
        observer: InferenceObserver,
    ) -> None:
        self._bank = bank
        self._load = load
        self._loaders = loaders
        self._copiers = copiers
        self._backbone_digest = backbone_digest
        self._budgets = budgets
        self._observer = observer
        self._pins: Counter[str] = Counter()
        self._held: dict[str, BankEntry] = {}  # pinned and on the device
        self._held_bytes = 0
        self._idle: LruBytes[BankEntry] = LruBytes(budgets.device_bytes)
        self._host: LruBytes[HostArtifact] = LruBytes(budgets.host_bytes)
        self._arriving: dict[str, asyncio.Task[BankEntry]] = {}
        self._leaving: dict[str, asyncio.Task[None]] = {}
        self._dropped: set[str] = set()  # while leaving

    @property
    def num_resident(self) -> int:
        """Artifacts on the device."""
        return len(self._held) + len(self._idle)

    @property
    def device_bytes(self) -> int:
        """Memory of the artifacts on the device."""
        return self._held_bytes + self._idle.num_bytes

    @property
    def num_in_host_memory(self) -> int:
        """Artifacts that left the device and need not be read again."""
        return len(self._host)

    @property
    def host_bytes(self) -> int:
        """Memory of those."""
        return self._host.num_bytes

    async def pin(self, digest: str) -> BankEntry:
        """Hold an artifact on the device until `unpin`, bringing it there first if need be.

        Raises:
            ArtifactMismatchError: It was made for another backbone.
            PromptStoreError: It cannot be read, or its bytes are not those of its digest.
        """
        entry = self.pin_resident(digest)
        if entry is not None:
            return entry
        self._pins[digest] += 1
        try:
            return await self._arrival(digest)
        except BaseException:
            self.unpin(digest)
            raise

    def pin_resident(self, digest: str) -> BankEntry | None:
        """Hold an artifact if it is on the device, as `pin` does; None if it is not."""
        entry = self._hold(digest, self._idle.pop(digest))
        if entry is not None:
            self._pins[digest] += 1
        return entry

    def unpin(self, digest: str) -> None:
        """Let go of what `pin` or `pin_resident` returned."""
        self._pins[digest] -= 1
        if not self._pins[digest]:
            del self._pins[digest]
            self._release(digest)

    def _hold(self, digest: str, entry: BankEntry | None) -> BankEntry | None:
        """Keep an entry from being evicted; returns what is held of this digest."""
        if entry is not None:
            self._held[digest] = entry
            self._held_bytes += entry.num_bytes
        return self._held.get(digest)

    def _release(self, digest: str) -> None:
        entry = self._held.pop(digest, None)
        if entry is not None:
            self._held_bytes -= entry.num_bytes
            self._idle.put(digest, entry)
            self._evict()

    def drop(self, digest: str) -> None:
        """Let an artifact go, from main memory too, if nobody holds it."""
        if digest not in self._pins:
            self._idle.pop(digest)
            self._host.pop(digest)
            if digest in self._leaving:
                self._dropped.add(digest)

    def let_idle_go(self) -> bool:
        """Let what nobody uses go from the device; says whether there was any.

        Not by way of main memory, which takes its time: the store has them.
        """
        num_before = len(self._idle)
        for _ in self._idle.overflow(self._budgets.device_bytes):
            self._observer.artifact_evicted()
        return num_before > 0

    async def _arrival(self, digest: str) -> BankEntry:
        if digest not in self._arriving:
            task = asyncio.create_task(self._bring(digest))
            self._arriving[digest] = task
            task.add_done_callback(lambda done: self._arrived(digest, done))
        # Shielded: the first caller may go away while others wait for the same artifact.
        return await asyncio.shield(self._arriving[digest])

    async def _bring(self, digest: str) -> BankEntry:
        if digest in self._leaving:
            await asyncio.wait({self._leaving[digest]})
        loop = asyncio.get_running_loop()
        started_s = time.perf_counter()
        artifact = self._host.pop(digest)
        was_in_host_memory = artifact is not None
        if artifact is None:
            artifact = await loop.run_in_executor(self._loaders, self._read, digest)
        try:
            entry = await self._copied(artifact)
        except BaseException:
            self._keep_in_host_memory(artifact)
            raise
        if not was_in_host_memory:
            self._observer.artifact_loaded(time.perf_counter() - started_s)
        return entry

    async def _copied(self, artifact: HostArtifact) -> BankEntry:
        """Copy an artifact to the device; what is idle there makes room if it has to.

        The budget was set at the start, and other things may have taken memory since.
        """
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._copiers, self._bank.insert, artifact)
        except RuntimeError:  # torch's, out of memory among them
            if not len(self._idle):
                raise
            logger.warning("what is idle on the device is let go for another", exc_info=True)
        self.let_idle_go()
        return await loop.run_in_executor(self._copiers, self._bank.insert, artifact)

    def _read(self, digest: str) -> HostArtifact:
        artifact = self._load(digest)
        if artifact.backbone_digest != self._backbone_digest:
            raise ArtifactMismatchError(
                f"artifact {digest} was made for backbone {artifact.backbone_digest}; "
                f"this service runs {self._backbone_digest}"
            )
        return host_artifact(digest, artifact)

    def _arrived(self, digest: str, done: asyncio.Task[BankEntry]) -> None:
        del self._arriving[digest]
        if done.cancelled() or done.exception() is not None:
            self._observer.artifact_load_failed()
            return  # whoever waits is told
        if digest in self._pins:
            self._hold(digest, done.result())
        else:
            self._idle.put(digest, done.result())
        self._evict()

    def _evict(self) -> None:
        """Let go of what was used longest ago, down to the device's budget."""
        for digest, entry in self._idle.overflow(self._held_bytes):
            self._observer.artifact_evicted()
            if digest not in self._leaving and entry.num_bytes <= self._budgets.host_bytes:
                task = asyncio.create_task(self._leave(entry))
                self._leaving[digest] = task
                task.add_done_callback(lambda _, gone=digest: self._left(gone))

    async def _leave(self, entry: BankEntry) -> None:
        loop = asyncio.get_running_loop()
        try:
            artifact = await loop.run_in_executor(self._copiers, self._bank.to_host, entry)
        except RuntimeError:  # torch's; the store still has the artifact
            logger.warning("an artifact could not be copied to main memory", exc_info=True)
            return
        if entry.digest not in self._dropped:
            self._keep_in_host_memory(artifact)

    def _left(self, digest: str) -> None:
        del self._leaving[digest]
        self._dropped.discard(digest)

    def _keep_in_host_memory(self, artifact: HostArtifact) -> None:
        if artifact.digest in self._held or artifact.digest in self._idle:
            return  # it is on the device again
        self._host.put(artifact.digest, artifact)
        for _ in self._host.overflow():
            pass  # dropped: the store has it
