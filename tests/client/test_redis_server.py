import os
import subprocess
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import redis

from client.errors import StartError
from client.redis_server import (
    MAX_SOCKET_PATH_BYTES,
    PrivateRedis,
    RedisProgram,
    find_redis_program,
)

Eventually = Callable[[Callable[[], bool], str], None]


def fake_server(folder: Path, name: str, version_text: str) -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\necho '{version_text}'\n")
    path.chmod(0o755)
    return path


def test_without_one_on_the_path_the_bundled_server_is_taken(tmp_path: Path) -> None:
    program = find_redis_program(str(tmp_path))
    assert program.label == "Valkey, bundled"
    assert os.access(program.path, os.X_OK)


def test_valkey_on_the_path_comes_first(tmp_path: Path) -> None:
    fake_server(tmp_path, "redis-server", "Redis server v=7.2.4 sha=0")
    valkey = fake_server(tmp_path, "valkey-server", "Valkey server v=8.0.1 sha=0")
    assert find_redis_program(str(tmp_path)).path == valkey


@pytest.mark.parametrize(
    ("version", "taken"), [("6.0.16", False), ("6.2.0", True), ("7.0.15", True), ("10.0.0", True)]
)
def test_a_server_that_is_too_old_is_passed_over(
    tmp_path: Path, version: str, *, taken: bool
) -> None:
    found = fake_server(tmp_path, "redis-server", f"Redis server v={version} sha=0")
    assert (find_redis_program(str(tmp_path)).path == found) == taken


@contextmanager
def running(server: PrivateRedis) -> Generator[subprocess.Popen[bytes]]:
    with subprocess.Popen(server.argv, cwd=server.folder, stdout=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.terminate()


@pytest.mark.parametrize("folder", ["plain", "with space & 100%", "x" * MAX_SOCKET_PATH_BYTES])
def test_its_url_leads_to_a_server_without_a_tcp_port(
    tmp_path: Path, folder: str, eventually: Eventually
) -> None:
    data_dir = tmp_path / folder
    data_dir.mkdir()
    server = PrivateRedis.prepare(find_redis_program(str(tmp_path)), data_dir)
    assert len(bytes(server.socket_path)) <= MAX_SOCKET_PATH_BYTES
    assert not server.answers()
    with running(server):
        eventually(server.answers, "an answer")
        with redis.Redis.from_url(server.url) as connection:
            assert connection.config_get("port") == {"port": "0"}
            assert connection.config_get("save") == {"save": ""}
        assert server.socket_path.stat().st_mode & 0o777 == 0o700
    assert server.folder.stat().st_mode & 0o777 == 0o700
    if server.folder.parent != data_dir.resolve():
        server.folder.rmdir()


def test_a_long_path_always_gets_the_same_short_one(tmp_path: Path) -> None:
    data_dir = tmp_path / ("x" * MAX_SOCKET_PATH_BYTES)
    data_dir.mkdir()
    program = RedisProgram(Path("/bin/false"), "false")
    servers = [PrivateRedis.prepare(program, data_dir) for _ in range(2)]
    assert servers[0] == servers[1]
    assert unquote(urlsplit(servers[0].url).path) == str(servers[0].socket_path)
    servers[0].folder.rmdir()


def test_a_short_folder_that_others_can_enter_is_refused(tmp_path: Path) -> None:
    data_dir = tmp_path / ("x" * MAX_SOCKET_PATH_BYTES)
    data_dir.mkdir()
    program = RedisProgram(Path("/bin/false"), "false")
    folder = PrivateRedis.prepare(program, data_dir).folder
    assert folder.parent in {Path(tempfile.gettempdir()), Path("/tmp")}  # noqa: S108
    folder.chmod(0o755)
    try:
        with pytest.raises(StartError, match="not a folder private to this user"):
            PrivateRedis.prepare(program, data_dir)
    finally:
        folder.rmdir()
