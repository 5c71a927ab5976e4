"""The metrics of all processes of this host, as any of its fronts shows them.

Each process keeps its own registry and hands it out on a socket. They are not added up: each sample
says in the label `process` where it is from, so that a restart resets that process's counters only,
which Prometheus knows how to read, and sums are taken by whoever asks.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import msgspec
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.registry import Collector

from service.host_sockets import answering, asked

LABEL = "process"
UP = "hgprompt_process_up"


class Sample(msgspec.Struct, frozen=True, array_like=True):
    """One value of a family."""

    name: str
    labels: dict[str, str]
    value: float


class Family(msgspec.Struct, frozen=True, array_like=True):
    """One metric of a process, with everything that the exposition format says of it."""

    name: str
    documentation: str
    type: str
    unit: str
    samples: tuple[Sample, ...]


def serving_metrics(
    collect: Callable[[], Awaitable[list[Family]]], folder: Path, name: str
) -> AbstractAsyncContextManager[None]:
    """Hand out a process's metrics to whoever connects, for as long as the context lasts.

    Args:
        collect: Gives them.
        folder: Where the socket goes.
        name: The process.
    """
    return answering(_socket(folder, name), lambda _: collect())


class HostMetrics:
    """Asks every process of the host.

    Args:
        folder: Where their sockets are.
        names: The processes.
    """

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self._folder = folder
        self._names = names
        self._decoder = msgspec.msgpack.Decoder(tuple[Family, ...])

    async def scrape(self) -> bytes:
        """Return the metrics in Prometheus' text format; those that do not answer are down."""
        answers = await asyncio.gather(
            *(asked(_socket(self._folder, name), self._decoder) for name in self._names)
        )
        merged: dict[str, Metric] = {}
        up = Metric(UP, "Whether a process of this host answers", "gauge")
        for name, families in zip(self._names, answers, strict=True):
            up.add_sample(UP, {LABEL: name}, float(families is not None))
            for family in families or ():
                found = (family.name, family.documentation, family.type, family.unit)
                metric = merged.setdefault(family.name, Metric(*found))
                for each in family.samples:
                    metric.add_sample(each.name, {**each.labels, LABEL: name}, each.value)
        registry = CollectorRegistry()
        registry.register(_Collected((up, *merged.values())))
        return generate_latest(registry)


class _Collected(Collector):
    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


async def scraped(
    registry: CollectorRegistry, refresh: Callable[[], Awaitable[None]] | None = None
) -> list[Family]:
    """Return what a registry has, after `refresh`."""
    if refresh is not None:
        await refresh()
    return [
        Family(
            metric.name,
            metric.documentation,
            metric.type,
            metric.unit,
            tuple(Sample(each.name, each.labels, each.value) for each in metric.samples),
        )
        for metric in registry.collect()
    ]


def _socket(folder: Path, name: str) -> Path:
    return folder / f"{name}.metrics"
