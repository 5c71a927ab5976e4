import asyncio
import threading
import time
from collections.abc import Callable

import pytest

from service.cpu_threads import on_archive_thread

pytestmark = pytest.mark.anyio


async def test_an_inspection_is_told_to_stop_when_nobody_waits_for_it() -> None:
    begun, ended = threading.Event(), threading.Event()

    def inspect(should_stop: Callable[[], bool]) -> None:
        begun.set()
        while not should_stop():
            time.sleep(0.01)
        ended.set()

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await on_archive_thread(inspect)
    assert begun.is_set()
    assert await asyncio.to_thread(ended.wait, 5)


async def test_what_is_found_or_raised_is_passed_on() -> None:
    assert await on_archive_thread(lambda should_stop: should_stop()) is False
    with pytest.raises(ZeroDivisionError):
        await on_archive_thread(lambda _: 1 / 0)
