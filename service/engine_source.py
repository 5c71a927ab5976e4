"""Where an application's engine comes from: this process, or another one."""

from contextlib import AbstractAsyncContextManager
from typing import Protocol

from service.inference.engine_client import EngineClient
from service.metrics.inference import InferenceMetrics
from service.parts import Parts


class Pace(Protocol):
    """Told how fast the engine is."""

    def __call__(self, num_images: int, seconds: float, /) -> None:
        """Learn that so many images took so many seconds."""


class EngineSource(Protocol):
    """Gives an application its engine."""

    @property
    def is_vital(self) -> bool:
        """Whether only a restart of this process mends the engine."""
        ...

    def running(
        self, parts: Parts, metrics: InferenceMetrics, on_pace: Pace
    ) -> AbstractAsyncContextManager[EngineClient]:
        """Run the engine, or stay connected to it, for as long as the context lasts.

        Args:
            parts: What every role shares.
            metrics: Where to record what the engine does, if it does it here.
            on_pace: Told on the event loop how fast the engine is.
        """
        ...

    async def check(self) -> None:
        """Health check.

        Raises:
            NotHealthyError: The engine cannot compute now.
        """
        ...
