"""What each model has done in all fronts of this host together, as any of them shows it."""

import asyncio
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import msgspec

from service.host_sockets import answering, asked
from service.oip.statistics import Keys, ModelStatistics
from service.oip.version_statistics import VersionStatistics


def serving_statistics(
    statistics: ModelStatistics, folder: Path, name: str
) -> AbstractAsyncContextManager[None]:
    """Hand out a front's statistics to whoever asks, for as long as the context lasts.

    Args:
        statistics: The front's.
        folder: Where the socket goes.
        name: The front.
    """
    decoder: msgspec.msgpack.Decoder[list[tuple[str, int]] | None] = msgspec.msgpack.Decoder(
        list[tuple[str, int]] | None  # type: ignore[arg-type]  # a union is no type to pyright
    )

    return answering(
        _socket(folder, name), lambda question: statistics.collect(decoder.decode(question))
    )


class HostStatistics:
    """Asks every front of the host, this one included.

    Args:
        folder: Where their sockets are.
        names: The fronts.
    """

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self._sockets = [_socket(folder, name) for name in names]
        self._decoder = msgspec.msgpack.Decoder(list[msgspec.Raw])

    async def collect(self, keys: Keys) -> list[msgspec.Raw]:
        """As `ModelStatistics.collect`, each version once for each front that has used it.

        A front that does not answer is left out.
        """
        question = msgspec.msgpack.encode(keys)
        answers = await asyncio.gather(
            *(asked(each, self._decoder, question) for each in self._sockets)
        )
        nothing = [msgspec.Raw(msgspec.msgpack.encode(VersionStatistics(*k))) for k in keys or ()]
        return [*nothing, *(each for answer in answers for each in answer or ())]


def _socket(folder: Path, name: str) -> Path:
    return folder / f"{name}.statistics"
