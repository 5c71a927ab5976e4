"""The engine's process: takes fronts in and gives signs of life."""

import asyncio
import logging
import socket
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from backbones.info import BackboneInfo
from service.inference.local_engine import LocalEngine
from service.inference.remote import handshake
from service.inference.remote.errors import ProtocolError
from service.inference.remote.messages import PROTOCOL_VERSION, Beat, Welcome
from service.inference.remote.pace import PaceMeter
from service.inference.remote.session import FrontSession

logger = logging.getLogger(__name__)

BACKLOG = 128


class EngineServer:
    """Serves an engine to the fronts that connect. Used on the event loop only.

    Args:
        engine: Computes.
        info: The backbone that it runs.
        is_healthy: Whether it works.
        pace: How fast it is.
        beat_s: How often to say so.
    """

    def __init__(
        self,
        engine: LocalEngine,
        info: BackboneInfo,
        *,
        is_healthy: Callable[[], bool],
        pace: PaceMeter,
        beat_s: float,
    ) -> None:
        self._engine = engine
        self._info = info
        self._is_healthy = is_healthy
        self._pace = pace
        self._beat_s = beat_s
        self._sessions: set[FrontSession] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def num_fronts(self) -> int:
        """Fronts that are attached."""
        return len(self._sessions)

    async def wait_for_fronts(self) -> None:
        """Wait until no front is attached any more."""
        while self._sessions:
            await asyncio.wait({session.closed for session in self._sessions})

    @asynccontextmanager
    async def listening(self, path: Path) -> AsyncGenerator[None]:
        """Take fronts in for as long as the context lasts; on leaving, hang up.

        Args:
            path: The socket; a stale one is replaced. Its folder decides who may connect.
        """
        with _listener(path) as listener:
            self._start(self._accept(listener))
            self._start(self._beat())
            try:
                yield
            finally:
                for task in self._tasks:
                    task.cancel()
                await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(listener)
            except OSError:  # no descriptors left, say
                logger.exception("a front could not be taken in")
                await asyncio.sleep(self._beat_s)
            else:
                self._start(self._serve(connection))

    async def _serve(self, connection: socket.socket) -> None:
        """Greet a front, serve it until one of the two hangs up."""
        said = Welcome(PROTOCOL_VERSION, self._info, self._beat_s)
        try:
            name, arena = await handshake.attached(connection, said, self._info.image_size_px)
        except ConnectionError:
            connection.close()  # it only wanted to know whether somebody is there
        except (OSError, TimeoutError, ProtocolError) as error:
            logger.warning("a connection was refused: %s", repr(error))
            connection.close()
        except BaseException:
            connection.close()
            raise
        else:
            await self._exchange(FrontSession(self._engine, name, arena), connection)

    async def _exchange(self, session: FrontSession, connection: socket.socket) -> None:
        loop, fields = asyncio.get_running_loop(), {"front": session.name}
        await loop.connect_accepted_socket(lambda: session, connection)
        self._sessions.add(session)
        logger.info("front attached", extra=fields)
        try:
            await session.closed
        finally:
            session.abort()
            self._sessions.discard(session)
            logger.info("front gone", extra=fields)

    async def _beat(self) -> None:
        while True:
            self._send(Beat(self._is_healthy(), *self._pace.take()))
            await asyncio.sleep(self._beat_s)

    def _send(self, beat: Beat) -> None:
        for session in self._sessions:
            session.send(beat)


@contextmanager
def _listener(path: Path) -> Generator[socket.socket]:
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.setblocking(False)
        listener.bind(str(path))
        listener.listen(BACKLOG)
        yield listener
    path.unlink(missing_ok=True)
