import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import numpy as np
import pytest
import torch
from prometheus_client import CollectorRegistry

from backbones.info import LoadedBackbone
from prompt_store.artifacts import Artifact
from prompt_store.errors import DigestMismatchError
from service.inference.bank import ArtifactBank, BankEntry
from service.inference.engine_parts import room_maker
from service.inference.errors import ArtifactMismatchError
from service.inference.host_artifact import HostArtifact, host_artifact
from service.inference.residency import Residency, ResidencyBudgets
from service.metrics.inference import InferenceMetrics
from tests.service.inference.remote.conftest import eventually

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def pinned(residency: Residency, digest: str) -> AsyncGenerator[BankEntry]:
    entry = await residency.pin(digest)
    try:
        yield entry
    finally:
        residency.unpin(digest)


class Shelf:
    """Artifacts by digest; counts the loads and can hold them up."""

    def __init__(self, make_artifact: Callable[..., Artifact]) -> None:
        self._make_artifact = make_artifact
        self.loads: list[str] = []
        self.open = threading.Event()
        self.open.set()

    def load(self, digest: str) -> Artifact:
        self.loads.append(digest)
        assert self.open.wait(30)
        if digest == "damaged":
            raise DigestMismatchError("damaged at rest")
        if digest == "foreign":
            return self._make_artifact(backbone_digest=f"sha256:{'f' * 64}")
        if digest == "large":
            return self._make_artifact(num_tokens=12)
        return self._make_artifact(int(digest))

    @property
    def artifact_bytes(self) -> int:
        return host_artifact("1", self._make_artifact(1)).num_bytes


@pytest.fixture
def shelf(make_artifact: Callable[..., Artifact]) -> Shelf:
    return Shelf(make_artifact)


MakeResidency = Callable[..., Residency]


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def make_residency(
    loaded: LoadedBackbone, shelf: Shelf, registry: CollectorRegistry
) -> Iterator[MakeResidency]:
    with ThreadPoolExecutor(2) as loaders, ThreadPoolExecutor(1) as copiers:

        def make(on_device: float, in_memory: float = 0.0) -> Residency:
            """Room for so many of the shelf's artifacts."""
            size = shelf.artifact_bytes
            return Residency(
                ArtifactBank(loaded.vit.device),
                shelf.load,
                loaders=loaders,
                copiers=copiers,
                backbone_digest=loaded.info.digest,
                budgets=ResidencyBudgets(int(on_device * size), int(in_memory * size)),
                observer=InferenceMetrics(registry),
            )

        yield make
        shelf.open.set()


@pytest.fixture
def residency(make_residency: MakeResidency) -> Residency:
    return make_residency(2)


async def use(residency: Residency, digest: str) -> BankEntry:
    async with pinned(residency, digest) as entry:
        assert entry.digest == digest
        return entry


async def settled(residency: Residency) -> None:
    """Wait for what is on its way to main memory."""
    await asyncio.gather(*residency._leaving.values())


async def test_callers_at_once_share_one_load(residency: Residency, shelf: Shelf) -> None:
    entries = await asyncio.gather(*(use(residency, "1") for _ in range(5)))
    assert len(set(map(id, entries))) == 1
    await use(residency, "1")
    assert shelf.loads == ["1"]


async def test_the_least_recently_used_artifact_goes_first(
    residency: Residency, shelf: Shelf
) -> None:
    for digest in ("1", "2", "1", "3"):
        await use(residency, digest)
    assert residency.num_resident == 2
    await use(residency, "1")
    assert shelf.loads == ["1", "2", "3"]
    await use(residency, "2")
    assert shelf.loads == ["1", "2", "3", "2"]


async def test_evictions_are_counted(residency: Residency, registry: CollectorRegistry) -> None:
    for digest in "12345":
        await use(residency, digest)
    assert registry.get_sample_value("hgprompt_artifact_evictions_total") == 3


async def test_what_is_in_use_stays(residency: Residency, shelf: Shelf) -> None:
    async with pinned(residency, "1"), pinned(residency, "2"), pinned(residency, "3") as third:
        for digest in ("4", "5"):
            await use(residency, digest)
        for digest in ("1", "2", "3"):
            await use(residency, digest)
        assert third.digest == "3"
        assert residency.device_bytes == 3 * shelf.artifact_bytes  # more than allowed
    assert residency.num_resident == 2
    assert residency.device_bytes == 2 * shelf.artifact_bytes
    assert shelf.loads == ["1", "2", "3", "4", "5"]


async def test_what_left_the_device_comes_back_from_main_memory_unchanged(
    make_residency: MakeResidency, shelf: Shelf, registry: CollectorRegistry
) -> None:
    residency = make_residency(2, in_memory=3)
    first = await use(residency, "1")
    for digest in ("2", "3", "4"):
        await use(residency, digest)
    await settled(residency)
    assert (residency.num_resident, residency.num_in_host_memory) == (2, 2)
    again = await use(residency, "1")
    assert first.prompt is not None
    assert again.prompt is not None
    np.testing.assert_array_equal(again.prompt, first.prompt)
    np.testing.assert_array_equal(again.head_weight, first.head_weight)
    np.testing.assert_array_equal(again.head_bias, first.head_bias)
    assert again.classes == first.classes
    assert shelf.loads == ["1", "2", "3", "4"]
    assert registry.get_sample_value("hgprompt_artifact_load_seconds_count") == 4


async def test_main_memory_has_a_budget_of_its_own(
    make_residency: MakeResidency, shelf: Shelf
) -> None:
    residency = make_residency(1, in_memory=2)
    for digest in "12345":
        await use(residency, digest)
        await settled(residency)
    assert (residency.num_resident, residency.num_in_host_memory) == (1, 2)
    assert residency.host_bytes <= 2 * shelf.artifact_bytes
    await use(residency, "3")
    await settled(residency)
    assert shelf.loads == ["1", "2", "3", "4", "5"]
    await use(residency, "1")
    assert shelf.loads == ["1", "2", "3", "4", "5", "1"]


async def test_what_main_memory_has_no_room_for_leaves_the_others_there(
    make_residency: MakeResidency, shelf: Shelf
) -> None:
    residency = make_residency(4, in_memory=1.5)
    for digest in ("1", "large", "2", "3", "4", "5"):
        await use(residency, digest)
        await settled(residency)
    assert residency.num_in_host_memory == 1
    await use(residency, "1")
    assert shelf.loads == ["1", "large", "2", "3", "4", "5"]


async def test_an_artifact_can_be_dropped_from_everywhere_unless_it_is_in_use(
    make_residency: MakeResidency, shelf: Shelf
) -> None:
    residency = make_residency(1, in_memory=4)
    for digest in "12":
        await use(residency, digest)
    await settled(residency)
    async with pinned(residency, "2"):
        residency.drop("2")
        assert residency.num_resident == 1
    residency.drop("1")
    residency.drop("2")
    residency.drop("3")
    assert (residency.num_resident, residency.num_in_host_memory) == (0, 0)
    assert (residency.device_bytes, residency.host_bytes) == (0, 0)
    for digest in "12":
        await use(residency, digest)
    assert shelf.loads == ["1", "2", "1", "2"]


async def test_an_artifact_that_is_dropped_while_it_leaves_is_not_kept(
    make_residency: MakeResidency, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    residency = make_residency(1, in_memory=4)
    to_host, go_on = residency._bank.to_host, threading.Event()

    def waiting(entry: BankEntry) -> HostArtifact:
        assert go_on.wait(30)
        return to_host(entry)

    await use(residency, "1")
    monkeypatch.setattr(residency._bank, "to_host", waiting)
    async with pinned(residency, "2"):
        assert list(residency._leaving) == ["1"]
        residency.drop("1")
        go_on.set()
        await settled(residency)
        await asyncio.sleep(0)
    assert residency.num_in_host_memory == 0
    assert not residency._dropped
    for digest in "1212":  # it may be kept again
        await use(residency, digest)
        await settled(residency)
    assert shelf.loads == ["1", "2", "1"]


async def test_an_artifact_is_asked_for_while_it_leaves(
    make_residency: MakeResidency, shelf: Shelf
) -> None:
    residency = make_residency(1, in_memory=8)
    for _ in range(20):
        await asyncio.gather(*(use(residency, str(i)) for i in range(4)))
    assert len(shelf.loads) == 4


async def test_a_slow_store_does_not_hold_up_main_memory(
    make_residency: MakeResidency, shelf: Shelf
) -> None:
    residency = make_residency(1, in_memory=4)
    for digest in "12":
        await use(residency, digest)
    await settled(residency)
    shelf.open.clear()
    slow = [asyncio.create_task(use(residency, str(i))) for i in range(10, 16)]
    await eventually(lambda: len(shelf.loads) == 4)  # both loaders wait for the store
    await asyncio.wait_for(use(residency, "1"), 10)
    assert not any(task.done() for task in slow)
    shelf.open.set()
    await asyncio.gather(*slow)


async def test_a_caller_that_goes_away_does_not_stop_the_load_of_the_others(
    residency: Residency, shelf: Shelf
) -> None:
    shelf.open.clear()
    first = asyncio.create_task(use(residency, "1"))
    second = asyncio.create_task(use(residency, "1"))
    await eventually(lambda: shelf.loads == ["1"])
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    shelf.open.set()
    assert (await asyncio.wait_for(second, 30)).digest == "1"
    assert shelf.loads == ["1"]


async def test_an_artifact_that_nobody_waits_for_any_more_stays_within_the_budget(
    residency: Residency, shelf: Shelf
) -> None:
    shelf.open.clear()
    gone = [asyncio.create_task(use(residency, str(i))) for i in range(6)]
    await eventually(lambda: len(residency._arriving) == 6)
    arriving = list(residency._arriving.values())
    for task in gone:
        task.cancel()
    shelf.open.set()
    await asyncio.gather(*gone, *arriving, return_exceptions=True)
    assert residency.num_resident == 2
    assert residency.device_bytes == 2 * shelf.artifact_bytes


async def test_what_is_idle_makes_room_when_the_device_is_out_of_memory(
    make_residency: MakeResidency, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    residency = make_residency(on_device=9)
    insert, tries = residency._bank.insert, []

    def out_of_memory_while_there_are_two(artifact: HostArtifact) -> BankEntry:
        tries.append(artifact.digest)
        if residency.num_resident == 2 and artifact.digest == "3":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return insert(artifact)

    monkeypatch.setattr(residency._bank, "insert", out_of_memory_while_there_are_two)
    async with pinned(residency, "1"):
        await use(residency, "2")
        await use(residency, "3")
        assert residency.num_resident == 2  # the one in use, and the new one
        monkeypatch.setattr(residency._bank, "insert", _out_of_memory)
        with pytest.raises(torch.OutOfMemoryError):
            await use(residency, "4")
    await use(residency, "1")
    assert shelf.loads == ["1", "2", "3", "4"]
    assert tries == ["1", "2", "3", "3"]


async def test_what_could_not_be_copied_to_the_device_need_not_be_read_again(
    make_residency: MakeResidency, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    residency = make_residency(on_device=1, in_memory=4)
    for digest in "12":
        await use(residency, digest)
    await settled(residency)
    with monkeypatch.context() as full:
        full.setattr(residency._bank, "insert", _out_of_memory)
        with pytest.raises(torch.OutOfMemoryError):
            await use(residency, "1")
    await use(residency, "1")
    assert shelf.loads == ["1", "2"]


async def test_a_thread_of_the_engine_makes_room_of_what_is_idle(
    make_residency: MakeResidency, shelf: Shelf, registry: CollectorRegistry
) -> None:
    residency = make_residency(on_device=9, in_memory=9)
    make_room = room_maker(residency, asyncio.get_running_loop())
    async with pinned(residency, "1"):
        assert not await asyncio.to_thread(make_room)
        await use(residency, "2")
        await use(residency, "3")
        assert await asyncio.to_thread(make_room)
        assert (residency.num_resident, residency.num_in_host_memory) == (1, 0)
    await use(residency, "1")
    assert shelf.loads == ["1", "2", "3"]
    assert registry.get_sample_value("hgprompt_artifact_evictions_total") == 2


def _out_of_memory(_: HostArtifact) -> BankEntry:
    raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize(
    ("digest", "error"), [("damaged", DigestMismatchError), ("foreign", ArtifactMismatchError)]
)
async def test_a_failed_load_is_told_to_all_and_tried_again(
    residency: Residency,
    shelf: Shelf,
    registry: CollectorRegistry,
    digest: str,
    error: type[Exception],
) -> None:
    calls = [use(residency, digest) for _ in range(3)]
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [error] * 3
    with pytest.raises(error):
        await use(residency, digest)
    assert shelf.loads == [digest, digest]
    assert registry.get_sample_value("hgprompt_artifact_load_failures_total") == 2
    assert (residency.num_resident, residency.device_bytes) == (0, 0)
