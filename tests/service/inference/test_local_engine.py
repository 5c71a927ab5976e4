import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from backbones.info import LoadedBackbone
from prompt_store.artifacts import Artifact
from service.inference.bank import ArtifactBank
from service.inference.batcher import Batcher
from service.inference.errors import EngineStoppedError
from service.inference.local_engine import LocalEngine
from service.inference.residency import Residency, ResidencyBudgets
from service.metrics.inference import InferenceMetrics
from tests.service.inference.remote.conftest import eventually

pytestmark = pytest.mark.anyio

PIXELS = np.zeros((3, 32, 32), np.uint8)


@pytest.fixture
def residency(
    loaded: LoadedBackbone, make_artifact: Callable[..., Artifact]
) -> Iterator[Residency]:
    with ThreadPoolExecutor(1) as threads:
        yield Residency(
            ArtifactBank(loaded.vit.device),
            lambda _: make_artifact(1),
            loaders=threads,
            copiers=threads,
            backbone_digest=loaded.info.digest,
            budgets=ResidencyBudgets(device_bytes=1 << 26, host_bytes=0),
            observer=InferenceMetrics(CollectorRegistry()),
        )


async def test_images_that_nobody_waits_for_any_more_are_not_computed(
    residency: Residency,
) -> None:
    batcher = Batcher(8)
    engine = LocalEngine(residency, batcher)
    gone, kept = (
        asyncio.create_task(engine.compute("x", [PIXELS] * count, deadline_s=float("inf")))
        for count in (3, 1)
    )
    await eventually(lambda: len(engine._waiting) == 4)

    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)

    batch = batcher.next_batch()
    assert batch is not None
    assert len(batch.rows) == 1
    engine.settle([(row, RuntimeError("it is not computed here")) for row in batch.rows])
    assert len((await kept).outcomes) == 1
    assert not residency._pins


async def test_what_is_refused_at_the_end_holds_no_artifact(residency: Residency) -> None:
    batcher = Batcher(8)
    engine = LocalEngine(residency, batcher)
    batcher.close()

    with pytest.raises(EngineStoppedError):
        await engine.compute("x", [PIXELS], deadline_s=float("inf"))

    assert not residency._pins
    assert not engine._waiting


async def test_what_is_done_can_be_cancelled_without_effect(residency: Residency) -> None:
    """Its artifact has been let go; another request may hold the same one."""
    batcher = Batcher(8)
    engine = LocalEngine(residency, batcher)
    entry = await residency.pin("x")
    await residency.pin("x")
    submission = engine.submit(
        entry,
        [PIXELS],
        tenant=None,
        deadline_s=float("inf"),
        wants_features=False,
        on_done=lambda _: None,
    )
    engine.settle([(row, RuntimeError("it is not computed here")) for row in submission.rows])

    engine.cancel(submission)

    assert residency._pins == {"x": 1}
