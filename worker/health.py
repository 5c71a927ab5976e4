"""`python -m worker.health`: exit 0 while a worker on this host beats, for container checks."""

import asyncio
import socket
import sys

from docket import Docket
from redis.exceptions import RedisError

from configuration.environment import SettingsError
from jobs.redis_keys import DOCKET_NAME
from jobs.settings import DeploymentSettings
from jobs.worker_names import host_of_worker


async def beating_workers(settings: DeploymentSettings, host: str) -> list[str]:
    """Return the names of the workers on `host` whose last beat is recent, by Redis's record.

    Raises:
        RedisError: Redis cannot be reached.
    """
    async with Docket(name=DOCKET_NAME, url=settings.redis_url) as docket:
        names = [worker.name for worker in await docket.workers()]
    return [name for name in names if host_of_worker(name) == host]


def main() -> int:
    """Say which workers beat; 1 if none does or Redis does not answer."""
    host = socket.gethostname()
    try:
        settings = DeploymentSettings.read()
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    try:
        names = asyncio.run(asyncio.wait_for(beating_workers(settings, host), 10.0))
    except (RedisError, OSError, TimeoutError) as error:
        sys.stderr.write(f"Redis does not answer: {error!r}\n")
        return 1
    sys.stdout.write(f"{len(names)} worker(s) of {host} beat: {', '.join(names)}\n")
    return 0 if names else 1


if __name__ == "__main__":
    sys.exit(main())
