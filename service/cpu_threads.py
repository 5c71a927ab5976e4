"""Reading and writing large bodies beside the event loop, on threads that wait for nothing else.

The threads of `asyncio.to_thread` also read the store: while it hangs, all of them may wait for it.
"""

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_THREADS = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="bodies")


async def on_cpu_thread(compute: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return what `compute` returns; it needs the processor and nothing else."""
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(_THREADS, partial(compute, *args, **kwargs))
