import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from backbones.info import LoadedBackbone
from service.processes.announced_backbone import announce_backbone, announced_backbone


@pytest.mark.anyio
async def test_a_front_waits_for_what_the_latest_engine_says(
    loaded: LoadedBackbone, tmp_path: Path
) -> None:
    waiting = asyncio.create_task(announced_backbone(tmp_path))
    await asyncio.sleep(0.2)
    assert not waiting.done()
    announce_backbone(tmp_path, loaded.info)
    assert await waiting == loaded.info
    other = replace(loaded.info, digest=f"sha256:{'3' * 64}")
    announce_backbone(tmp_path, other)
    assert await announced_backbone(tmp_path) == other


def test_an_engine_that_says_the_same_again_writes_nothing(
    loaded: LoadedBackbone, tmp_path: Path
) -> None:
    announce_backbone(tmp_path, loaded.info)
    (announced,) = tmp_path.iterdir()
    before = announced.stat()
    announce_backbone(tmp_path, loaded.info)
    assert list(tmp_path.iterdir()) == [announced]
    assert (announced.stat().st_ino, announced.stat().st_mtime_ns) == (
        before.st_ino,
        before.st_mtime_ns,
    )
