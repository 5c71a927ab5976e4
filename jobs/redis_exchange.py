"""One limit and one error for every exchange with Redis."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from redis.exceptions import RedisError

from jobs.errors import QueueUnavailableError


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
