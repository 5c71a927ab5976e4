"""Whether this process is alive and ready: derived from the parts that registered a check."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass

logger = logging.getLogger(__name__)

CHECK_TIMEOUT_S = 2.0

Check = Callable[[], Awaitable[None]]
"""Returns if the part works, raises if it does not."""


class NotHealthyError(Exception):
    """Raised by a check whose part does not work."""


@dataclass(frozen=True)
class Health:
    """The checks of one process.

    Attributes:
        checks: By name; all must pass for the process to be ready.
        vital: Names of those that only a restart can mend; while they fail it is not alive.
    """

    checks: Mapping[str, Check]
    vital: frozenset[str]

    async def readiness(self, names: Collection[str] | None = None) -> dict[str, str]:
        """Run every check, or those of `names`, at once: name to "ok" or what is wrong."""
        wanted = self.checks.keys() if names is None else self.checks.keys() & names
        return await self._run(sorted(wanted))

    async def liveness(self) -> dict[str, str]:
        """Run the vital checks."""
        return await self._run(sorted(self.vital & self.checks.keys()))

    async def _run(self, names: list[str]) -> dict[str, str]:
        results = await asyncio.gather(*(self._outcome(name) for name in names))
        return dict(zip(names, results, strict=True))

    async def _outcome(self, name: str) -> str:
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_S):
                await self.checks[name]()
        except TimeoutError:
            return f"no answer within {CHECK_TIMEOUT_S:g} s"
        except Exception as error:  # noqa: BLE001  whatever it raises is the answer
            logger.warning("health check failed: %r", error, extra={"check": name})
            return type(error).__name__
        return "ok"
