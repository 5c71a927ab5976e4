"""Which artifacts are on the device: loaded on first use, pinned while in use."""

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Executor
from contextlib import asynccontextmanager

from prompt_store.artifacts import Artifact
from service.inference.bank import ArtifactBank, BankEntry
from service.inference.errors import ArtifactMismatchError
from service.inference.observer import InferenceObserver


class Residency:
    """Keeps the most recently used artifacts on the device. Used on the event loop only.

    Loading (store, digest check, copy to the device) runs on the executor, beside the forward
    passes. An artifact in use is never evicted, so the bound may be exceeded while more than
    `max_artifacts` are in use at once.

    Args:
        bank: Where artifacts go.
        load: Fetches and checks an artifact by digest; runs on the executor.
        executor: Threads for loading.
        backbone_digest: The loaded backbone; artifacts of another one are refused.
        max_artifacts: How many stay when nobody uses them.
        observer: Told of loads and evictions.
    """

    def __init__(
        self,
        bank: ArtifactBank,
        load: Callable[[str], Artifact],
        executor: Executor,
        *,
        backbone_digest: str,
        max_artifacts: int,
        observer: InferenceObserver,
    ) -> None:
        self._bank = bank
        self._load = load
        self._executor = executor
        self._backbone_digest = backbone_digest
        self._max_artifacts = max_artifacts
        self._observer = observer
        self._entries: OrderedDict[str, BankEntry] = OrderedDict()
        self._loading: dict[str, asyncio.Future[BankEntry]] = {}
        self._pins: Counter[str] = Counter()

    @property
    def num_resident(self) -> int:
        """Artifacts on the device."""
        return len(self._entries)

    @asynccontextmanager
    async def pinned(self, digest: str) -> AsyncGenerator[BankEntry]:
        """Hold an artifact on the device, loading it first if need be.

        Raises:
            ArtifactMismatchError: It was made for another backbone.
            PromptStoreError: It cannot be read, or its bytes are not those of its digest.
        """
        self._pins[digest] += 1
        try:
            yield await self._entry(digest)
        finally:
            self._pins[digest] -= 1
            if not self._pins[digest]:
                del self._pins[digest]
            self._evict()

    def drop(self, digest: str) -> None:
        """Let an artifact go if nobody holds it."""
        if digest in self._entries and digest not in self._pins:
            self._bank.remove(self._entries.pop(digest))

    async def _entry(self, digest: str) -> BankEntry:
        if digest in self._entries:
            self._entries.move_to_end(digest)
            return self._entries[digest]
        if digest not in self._loading:
            loop = asyncio.get_running_loop()
            self._loading[digest] = loop.run_in_executor(self._executor, self._insert, digest)
            self._loading[digest].add_done_callback(lambda done: self._loaded(digest, done))
        # Shielded: the first caller may go away while others wait for the same artifact.
        return await asyncio.shield(self._loading[digest])

    def _insert(self, digest: str) -> BankEntry:
        started_s = time.perf_counter()
        artifact = self._load(digest)
        if artifact.backbone_digest != self._backbone_digest:
            raise ArtifactMismatchError(
                f"artifact {digest} was made for backbone {artifact.backbone_digest}; "
                f"this service runs {self._backbone_digest}"
            )
        entry = self._bank.insert(digest, artifact)
        self._observer.artifact_loaded(time.perf_counter() - started_s)
        return entry

    def _loaded(self, digest: str, done: asyncio.Future[BankEntry]) -> None:
        del self._loading[digest]
        if not done.cancelled() and done.exception() is None:
            self._entries[digest] = done.result()
            self._evict()
        else:
            self._observer.artifact_load_failed()

    def _evict(self) -> None:
        """Drop the least recently used artifacts that nobody holds, down to the bound."""
        excess = len(self._entries) - self._max_artifacts
        if excess <= 0:
            return
        idle = [digest for digest in self._entries if digest not in self._pins]
        for digest in idle[:excess]:
            self._bank.remove(self._entries.pop(digest))
            self._observer.artifact_evicted()
