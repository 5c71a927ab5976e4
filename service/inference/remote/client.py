"""The front's engine: in another process, which may go away and come back."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from backbones.info import BackboneInfo
from service.inference.engine_client import Computed
from service.inference.remote import handshake
from service.inference.remote.arena import PixelArena
from service.inference.remote.errors import ProtocolError
from service.inference.remote.link import EngineLink, unavailable

logger = logging.getLogger(__name__)

RECONNECT_S = 0.1


class RemoteEngine:
    """An `EngineClient` whose engine is another process of this host.

    Each connection has a pixel arena of its own: an engine that was given up, and comes back to
    life, cannot read the pixels of later requests. Used on the event loop only.

    Args:
        path: The engine's socket.
        name: Of this front, for the engine's log.
        num_slots: Images that may be with the engine at once.
        on_pace: Told how many images took the engine how many seconds.
    """

    def __init__(
        self,
        path: Path,
        *,
        name: str,
        num_slots: int,
        on_pace: Callable[[int, float], None],
    ) -> None:
        self._path = path
        self._name = name
        self._num_slots = num_slots
        self._on_pace = on_pace
        self._link: EngineLink | None = None
        self._connected = asyncio.Event()

    @property
    def is_healthy(self) -> bool:
        """Whether the engine is there and works."""
        return self._link is not None and not self._link.closed.done() and self._link.is_healthy

    async def compute(
        self,
        digest: str,
        pixels: Sequence[np.ndarray],
        *,
        tenant: str | None = None,
        deadline_s: float,
        wants_features: bool = False,
    ) -> Computed:
        """Compute images under an artifact; see `EngineClient.compute`.

        Raises:
            EngineUnavailableError: The engine's process is not there, or went away meanwhile.
            QueueFullError: There is no room for the pixels.
        """
        if self._link is None:
            raise unavailable()
        return await self._link.compute(
            digest, pixels, tenant=tenant, deadline_s=deadline_s, wants_features=wants_features
        )

    async def load(self, digest: str) -> None:
        """Bring an artifact to the device; see `EngineClient.load`."""
        await self.compute(digest, (), deadline_s=time.monotonic())

    async def unload(self, digest: str) -> None:
        """Let an artifact go unless it is in use; see `EngineClient.unload`."""
        if self._link is None:
            raise unavailable()
        self._link.unload(digest)

    async def wait_connected(self) -> None:
        """Wait until there is an engine."""
        await self._connected.wait()

    async def keep_connected(
        self, info: BackboneInfo, on_backbone: Callable[[BackboneInfo], None] = lambda _: None
    ) -> None:
        """Connect, and connect again whenever the engine was gone; until cancelled.

        Args:
            info: The backbone that this front prepares images for.
            on_backbone: Told of the same backbone under another name or in another arithmetic.

        Raises:
            ProtocolError: The engine came back with another backbone.
        """
        while True:
            try:
                link, found = await self._connect(info)
            except (OSError, TimeoutError):
                await asyncio.sleep(RECONNECT_S)
                continue
            logger.info("connected to the engine's process")
            if found != info:
                info = found
                on_backbone(found)
            self._link = link
            self._connected.set()
            try:
                await asyncio.shield(link.closed)
            finally:
                self._link = None
                self._connected.clear()
                link.abort()
            logger.warning("the connection to the engine's process is gone")
            await asyncio.sleep(RECONNECT_S)

    async def _connect(self, info: BackboneInfo) -> tuple[EngineLink, BackboneInfo]:
        connection, said = await handshake.connected(self._path)
        found = said.backbone
        # An engine decides anew at its start in which arithmetic it computes.
        if replace(found, name=info.name, dtype=info.dtype) != info:
            connection.close()
            raise ProtocolError(f"the engine runs {found.digest}, this front is for {info.digest}")
        try:
            arena = PixelArena(info.image_size_px, self._num_slots)
            try:
                handshake.attach(connection, self._name, arena)
            finally:
                arena.close_descriptor()
            link = EngineLink(arena, said.beat_s, self._on_pace)
            await asyncio.get_running_loop().connect_accepted_socket(lambda: link, connection)
        except BaseException:
            connection.close()
            raise
        return link, found
