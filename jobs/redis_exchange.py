"""One limit and one error for every exchange with Redis."""

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

from redis.exceptions import RedisError

from jobs.errors import QueueUnavailableError

MAX_PER_EXCHANGE = 500
"""Of so many fits Redis can be asked within the limit, however busy it and this process are."""

_Item = TypeVar("_Item")


def chunks(items: Sequence[_Item]) -> Iterator[Sequence[_Item]]:
    """Split what Redis is asked about into parts, each for an exchange of its own."""
    for start in range(0, len(items), MAX_PER_EXCHANGE):
        yield items[start : start + MAX_PER_EXCHANGE]


@asynccontextmanager
async def redis_exchange(timeout_s: float) -> AsyncGenerator[None]:
    """Limit what happens in the block to `timeout_s`.

    Raises:
        QueueUnavailableError: Redis did not answer in time, or with an error. The message names no
            address, because users see it; the cause has the rest.
    """
    try:
        async with asyncio.timeout(timeout_s):
            yield
    except TimeoutError as error:
        raise QueueUnavailableError(f"Redis did not answer within {timeout_s:g} s") from error
    except RedisError as error:
        raise QueueUnavailableError(f"Redis did not answer: {type(error).__name__}") from error
