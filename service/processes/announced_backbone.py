"""Which backbone the engine runs: left for fronts that begin while the engine is away."""

import asyncio
from pathlib import Path

import msgspec

from backbones.info import BackboneInfo

_NAME = "backbone.json"
_LOOK_AGAIN_S = 0.1


def announce_backbone(folder: Path, info: BackboneInfo) -> None:
    """Say which backbone this host's engine runs, in place of what the one before it said.

    Args:
        folder: Private folder of the host's processes.
        info: The backbone.
    """
    announced, said = folder / _NAME, msgspec.json.encode(info)
    if announced.exists() and announced.read_bytes() == said:
        return  # a restart needs no room on a disk that may be full
    being_written = folder / f"{_NAME}.new"
    being_written.write_bytes(said)
    being_written.replace(announced)


async def announced_backbone(folder: Path) -> BackboneInfo:
    """Wait until an engine has said which backbone it runs, and return it.

    Raises:
        msgspec.ValidationError: The engine was of another release.
    """
    while True:
        try:
            return msgspec.json.decode((folder / _NAME).read_bytes(), type=BackboneInfo)
        except FileNotFoundError:
            await asyncio.sleep(_LOOK_AGAIN_S)
