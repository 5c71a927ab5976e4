"""Work for the processor beside the event loop, on threads that wait for nothing else.

The threads of `asyncio.to_thread` also read the store: while it hangs, all of them may wait for it.
Bodies, contents and archives have threads of their own, because a body takes milliseconds, a
content seconds, and an archive minutes.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

import joblib

MAX_BYTES_ON_LOOP = 262_144
"""What is larger takes more than a millisecond or so to parse."""

P = ParamSpec("P")
T = TypeVar("T")

_BODIES = ThreadPoolExecutor(joblib.cpu_count(), thread_name_prefix="bodies")
_ARCHIVES = ThreadPoolExecutor(joblib.cpu_count(), thread_name_prefix="archives")
_CONTENTS = ThreadPoolExecutor(joblib.cpu_count(), thread_name_prefix="contents")


async def on_cpu_thread(compute: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return what `compute` returns; it needs the processor and nothing else."""
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(_BODIES, partial(compute, *args, **kwargs))


async def on_content_thread(check: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return what `check` returns, when its turn has come; it reads a whole file of the store."""
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(_CONTENTS, partial(check, *args, **kwargs))


async def on_archive_thread(inspect: Callable[[Callable[[], bool]], T]) -> T:
    """Return what `inspect` returns, when its turn has come.

    Args:
        inspect: Takes long. It is given a function to ask whether to stop, which is true once the
            caller has been cancelled: a thread cannot be, and the process would wait for it.
    """
    stopped = threading.Event()
    loop = asyncio.get_running_loop()
    try:
        return await loop.run_in_executor(_ARCHIVES, inspect, stopped.is_set)
    finally:
        stopped.set()
