import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from prometheus_client import CollectorRegistry

from backbones.info import LoadedBackbone
from prompt_store.artifacts import Artifact
from prompt_store.errors import DigestMismatchError
from service.inference.bank import ArtifactBank
from service.inference.errors import ArtifactMismatchError
from service.inference.residency import Residency
from service.metrics import InferenceMetrics

pytestmark = pytest.mark.anyio


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
        return self._make_artifact(int(digest))


@pytest.fixture
def shelf(make_artifact: Callable[..., Artifact]) -> Shelf:
    return Shelf(make_artifact)


@pytest.fixture
def residency(loaded: LoadedBackbone, shelf: Shelf) -> Residency:
    return Residency(
        ArtifactBank(loaded.info.embed_dim, loaded.vit.device),
        shelf.load,
        ThreadPoolExecutor(2),
        backbone_digest=loaded.info.digest,
        max_artifacts=2,
        observer=InferenceMetrics(CollectorRegistry()),
    )


async def use(residency: Residency, digest: str) -> str:
    async with residency.pinned(digest) as entry:
        return entry.digest


async def test_callers_at_once_share_one_load(residency: Residency, shelf: Shelf) -> None:
    assert await asyncio.gather(*(use(residency, "1") for _ in range(5))) == ["1"] * 5
    assert await use(residency, "1") == "1"
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


async def test_what_is_in_use_stays(residency: Residency, shelf: Shelf) -> None:
    async with residency.pinned("1"), residency.pinned("2"), residency.pinned("3") as third:
        for digest in ("4", "5"):
            await use(residency, digest)
        slots = set()
        for digest in ("1", "2", "3"):
            async with residency.pinned(digest) as entry:
                slots.add(entry.prompt_slot)
        assert len(slots) == 3
        assert third.digest == "3"
    assert residency.num_resident == 2
    assert shelf.loads == ["1", "2", "3", "4", "5"]


async def test_a_caller_that_goes_away_does_not_stop_the_load_of_the_others(
    residency: Residency, shelf: Shelf
) -> None:
    shelf.open.clear()
    first = asyncio.create_task(use(residency, "1"))
    second = asyncio.create_task(use(residency, "1"))
    await asyncio.sleep(0.05)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    shelf.open.set()
    assert await asyncio.wait_for(second, 30) == "1"
    assert shelf.loads == ["1"]


@pytest.mark.parametrize(
    ("digest", "error"), [("damaged", DigestMismatchError), ("foreign", ArtifactMismatchError)]
)
async def test_a_failed_load_is_told_to_all_and_tried_again(
    residency: Residency, shelf: Shelf, digest: str, error: type[Exception]
) -> None:
    calls = [use(residency, digest) for _ in range(3)]
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [error] * 3
    with pytest.raises(error):
        await use(residency, digest)
    assert shelf.loads == [digest, digest]
    assert residency.num_resident == 0
