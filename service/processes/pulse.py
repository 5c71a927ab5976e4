"""Signs of life from a child to its supervisor: a byte now and then, on a pipe."""

import asyncio
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress

WELL, UNWELL = b"+", b"-"


@asynccontextmanager
async def beating(
    pulse_fd: int, beat_s: float, is_well: Callable[[], bool | None]
) -> AsyncGenerator[None]:
    """Give signs of life for as long as the context lasts: those of the event loop.

    Args:
        pulse_fd: The pipe.
        beat_s: How often.
        is_well: Whether this process does its work; None while it does not yet.
    """
    os.set_blocking(pulse_fd, False)

    async def beat() -> None:
        while True:
            well = is_well()
            if well is not None:
                with suppress(BlockingIOError):  # the supervisor does not read: its own affair
                    os.write(pulse_fd, WELL if well else UNWELL)
            await asyncio.sleep(beat_s if well is not None else beat_s / 10)

    task = asyncio.create_task(beat())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
