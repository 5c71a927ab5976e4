"""Keeps child processes running, and ends them in order."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from service.processes.child import Child, ChildSpec
from service.processes.restarts import RestartPolicy, Restarts

logger = logging.getLogger(__name__)


class GaveUpError(Exception):
    """A child cannot be kept running."""


class Supervisor:
    """Starts children, restarts those that fail, ends all of them when it is told to.

    Args:
        groups: The children. On the way out each group ends before the next one is told to.
        folder: Private folder of the children.
        beat_s: How often they give signs of life.
        policy: When to give up.

    Attributes:
        stopping: Set when the children are told to end, or will be at once.
    """

    def __init__(
        self,
        groups: Sequence[Sequence[ChildSpec]],
        folder: str,
        *,
        beat_s: float,
        policy: RestartPolicy,
    ) -> None:
        self._groups = groups
        self._folder = folder
        self._beat_s = beat_s
        self._policy = policy
        self._children: dict[str, Child] = {}
        self._are_ready = {spec.name: asyncio.Event() for group in groups for spec in group}
        self.stopping = asyncio.Event()
        self._ending: Sequence[ChildSpec] = ()

    def stop(self) -> None:
        """End the children in order; the second call hurries those whose turn it is."""
        if self.stopping.is_set():
            for child in self._running(self._ending):
                child.hurry()
        self.stopping.set()

    async def run(self, on_ready: Callable[[], None]) -> None:
        """Keep the children running until `stop` is called; none is left afterwards.

        Args:
            on_ready: Called when all have started.

        Raises:
            GaveUpError: One failed at its first start, or too often.
        """
        specs = [spec for group in self._groups for spec in group]
        keeping = {spec.name: asyncio.create_task(self._keep(spec)) for spec in specs}
        first = asyncio.create_task(self._announce(on_ready))
        stopping = asyncio.create_task(self.stopping.wait())
        try:
            await asyncio.wait({stopping, *keeping.values()}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.stopping.set()
            first.cancel()
            for group in self._groups:
                await self._end(group, [keeping[spec.name] for spec in group])
        for task in keeping.values():
            task.result()

    async def _keep(self, spec: ChildSpec) -> None:
        """Run a child again and again, until all are stopped."""
        restarts, is_ready = Restarts(self._policy, time.monotonic), self._are_ready[spec.name]
        while not self.stopping.is_set():
            how, fields = await self._run_once(spec, is_ready)
            if self.stopping.is_set():
                logger.info("%s", how, extra=fields)
                return
            delay_s = restarts.failed() if is_ready.is_set() else None
            if delay_s is None:
                raise GaveUpError(f"{how}, {'too often' if is_ready.is_set() else 'at the start'}")
            logger.error("%s; restarting it in %g s", how, delay_s, extra=fields)
            try:
                async with asyncio.timeout(delay_s):
                    await self.stopping.wait()
            except TimeoutError:
                pass

    async def _run_once(
        self, spec: ChildSpec, is_ready: asyncio.Event
    ) -> tuple[str, dict[str, int]]:
        """Run a child to its end; returns how it ended and its id, or why it did not start."""
        try:
            child = await Child.start(spec, self._folder, self._beat_s, is_ready)
        except OSError as error:  # no process or memory left, say
            return f"{spec.name} could not be started: {error}", {}
        self._children[spec.name] = child
        if spec in self._ending:
            child.terminate()  # its group was told to end while this one was being started
        return await child.ended(), {"pid": child.pid}

    async def _announce(self, on_ready: Callable[[], None]) -> None:
        for is_ready in self._are_ready.values():
            await is_ready.wait()
        on_ready()

    async def _end(self, group: Sequence[ChildSpec], keeping: list[asyncio.Task[None]]) -> None:
        self._ending = group
        for child in self._running(group):
            child.terminate()
        grace_s = max(spec.grace_s for spec in group)
        _, running = await asyncio.wait(keeping, timeout=grace_s)
        if running:
            logger.error("%d of %d took longer than %g s", len(running), len(group), grace_s)
            for child in self._running(group):
                child.kill()
            await asyncio.wait(keeping)

    def _running(self, group: Sequence[ChildSpec]) -> list[Child]:
        """The children of a group; those that have ended take no notice."""
        return [self._children[spec.name] for spec in group if spec.name in self._children]
