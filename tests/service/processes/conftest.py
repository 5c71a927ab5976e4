from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.service.processes.running_host import Host, children_of, is_alive
from tests.service_process import eventually


@pytest.fixture
def serve(tmp_path: Path, store_url: str, redis_url: str) -> Iterator[Callable[..., Host]]:
    hosts: list[Host] = []

    def start(**settings: object) -> Host:
        hosts.append(Host(tmp_path, store_url, redis_url, **settings))
        return hosts[-1]

    yield start
    for host in hosts:
        children = children_of(host.process.pid) if host.process.poll() is None else []
        host.close()
        eventually(lambda children=children: not any(map(is_alive, children)), 10)
