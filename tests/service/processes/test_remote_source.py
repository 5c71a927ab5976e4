"""A front that begins beside an engine which is not the one it was to begin with."""

import asyncio
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backbones.info import LoadedBackbone
from jobs.settings import DeploymentSettings
from service.composition import compose
from service.inference.remote.errors import ProtocolError
from service.processes.assignment import ENGINE_SOCKET, Assignment
from service.processes.remote_source import RemoteEngineSource
from service.settings import ServiceSettings
from tests.service.inference.remote.conftest import EngineHost

pytestmark = pytest.mark.anyio
SETTINGS = ServiceSettings(role="classifier", front_processes=2, warm_up=False)


async def test_a_front_ends_if_the_engine_has_another_backbone_when_it_begins(
    loaded: LoadedBackbone, blobs: Any, deployment: DeploymentSettings, tmp_path_factory: Any
) -> None:
    """It has read the backbone of one engine, and attaches to the next one."""
    folder: Path = tmp_path_factory.mktemp("s")
    before = replace(loaded.info, digest=f"sha256:{'3' * 64}")
    source = RemoteEngineSource(Assignment("front-0", str(folder), 0, 0, 0.1))
    app = compose(SETTINGS, deployment, before, source)
    host = EngineHost(loaded, blobs, folder / ENGINE_SOCKET)
    async with host.server.listening(folder / ENGINE_SOCKET):
        started_s = time.monotonic()
        with pytest.raises(ProtocolError, match="this front is for sha256:333"):
            async with asyncio.timeout(20), app.router.lifespan_context(app):
                pytest.fail("it began")
        assert time.monotonic() - started_s < 10
    await host.close()
