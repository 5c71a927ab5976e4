"""Everything at once: whatever comes and goes, an answer is that of the digest it reports."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import numpy as np
import pytest
import torch
from prometheus_client import CollectorRegistry

from backbones.info import LoadedBackbone
from prompt_store.artifacts import Artifact
from prompt_store.errors import StoreUnavailableError
from service.inference.backbone_pass import EagerPass
from service.inference.bank import ArtifactBank
from service.inference.batcher import Batcher
from service.inference.engine import BatchReport, Compute, Engine
from service.inference.forward import Forward
from service.inference.host_artifact import host_artifact
from service.inference.local_engine import LocalEngine
from service.inference.residency import Residency, ResidencyBudgets
from service.inference.rows import RowResult
from service.inference.streams import CoreStreams
from service.metrics.inference import InferenceMetrics

pytestmark = pytest.mark.anyio

NUM_ARTIFACTS = 40
NUM_SHAPES = 3
NUM_IMAGES = 6
FOREVER_S = float("inf")


class Library:
    """Artifacts of three prompt shapes; the store is sometimes down."""

    def __init__(self, make_artifact: Callable[..., Artifact], rng: random.Random) -> None:
        shapes = [(2, 3), (1, 5), (1, 0)]
        self._rng = rng
        self.flaky = False
        self.loads = 0
        self.artifacts = {
            f"sha256:{i:064d}": make_artifact(
                i,
                num_layers=shapes[i % NUM_SHAPES][0],
                num_tokens=shapes[i % NUM_SHAPES][1],
                classes=tuple(f"class {j}" for j in range(2 + i % 5)),
            )
            for i in range(NUM_ARTIFACTS)
        }

    def load(self, digest: str) -> Artifact:
        self.loads += 1
        if self.flaky and self._rng.random() < 0.1:
            raise StoreUnavailableError("down")
        return self.artifacts[digest]


@asynccontextmanager
async def running(
    vit: LoadedBackbone,
    library: Library,
    budgets: ResidencyBudgets,
    compute: Compute,
    report: Callable[[BatchReport], None] = lambda _: None,
) -> AsyncIterator[LocalEngine]:
    loop = asyncio.get_running_loop()
    batcher = Batcher(8, streams=CoreStreams(2))
    with ThreadPoolExecutor(3) as loaders, ThreadPoolExecutor(2) as copiers:
        residency = Residency(
            ArtifactBank(vit.vit.device),
            library.load,
            loaders=loaders,
            copiers=copiers,
            backbone_digest=vit.info.digest,
            budgets=budgets,
            observer=InferenceMetrics(CollectorRegistry()),
        )
        local = LocalEngine(residency, batcher)
        engine = Engine(
            compute,
            batcher,
            deliver=lambda outcomes: loop.call_soon_threadsafe(local.settle, outcomes),
            report=report,
            num_streams=2,
        )
        engine.start()
        try:
            yield local
        finally:
            assert await asyncio.to_thread(engine.stop, 30)


@pytest.fixture
def images() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (3, 32, 32), dtype=np.uint8) for _ in range(NUM_IMAGES)]


@torch.inference_mode()
def answers_of(
    loaded: LoadedBackbone, artifact: Artifact, images: list[np.ndarray]
) -> list[np.ndarray]:
    prompt = torch.from_numpy(artifact.prompt_embeddings)
    features = loaded.vit(torch.from_numpy(np.stack(images)), prompt).numpy()
    logits = features @ artifact.head_weight.T + artifact.head_bias
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return list(powers / powers.sum(-1, keepdims=True))


@pytest.mark.parametrize(("on_device", "in_memory"), [(1, 0), (2, 4), (6, 60)])
async def test_every_answer_is_that_of_the_digest_it_reports(
    loaded: LoadedBackbone,
    make_artifact: Callable[..., Artifact],
    images: list[np.ndarray],
    on_device: int,
    in_memory: int,
) -> None:
    rng = random.Random(1)  # noqa: S311 - a seeded test
    library = Library(make_artifact, rng)
    expected = {d: answers_of(loaded, a, images) for d, a in library.artifacts.items()}
    size = max(host_artifact(d, a).num_bytes for d, a in library.artifacts.items())
    budgets = ResidencyBudgets(on_device * size, in_memory * size)
    library.flaky = True
    checked = unavailable = 0

    async def client(local: LocalEngine) -> None:
        nonlocal checked, unavailable
        for _ in range(25):
            digest = rng.choice(list(library.artifacts))
            chosen = rng.sample(range(NUM_IMAGES), rng.randint(1, 4))
            work = local.compute(digest, [images[i] for i in chosen], deadline_s=FOREVER_S)
            task = asyncio.create_task(work)
            if rng.random() < 0.2:  # goes away at some moment
                await asyncio.sleep(rng.random() * 0.01)
                task.cancel()
            try:
                computed = await task
            except asyncio.CancelledError:
                continue
            except StoreUnavailableError:
                unavailable += 1
                continue
            assert computed.classes == library.artifacts[digest].classes
            for i, outcome in zip(chosen, computed.outcomes, strict=True):
                assert isinstance(outcome, RowResult)
                assert outcome.digest == digest
                np.testing.assert_allclose(outcome.probabilities, expected[digest][i], atol=1e-5)
                checked += 1

    async with running(loaded, library, budgets, Forward(EagerPass(loaded.vit))) as local:
        await asyncio.gather(*(client(local) for _ in range(12)))
        residency = local.residency
        await asyncio.gather(*residency._arriving.values(), return_exceptions=True)
        await asyncio.gather(*residency._leaving.values())
        assert residency.device_bytes <= budgets.device_bytes
        assert residency.host_bytes <= budgets.host_bytes
        assert not residency._pins
        assert not residency._held
        assert local._waiting == {}
    assert checked > 400
    assert unavailable > 0
    assert library.loads > NUM_ARTIFACTS or in_memory == 60


@pytest.mark.parametrize("gone", range(4))
async def test_cancelling_one_of_four_requests_never_hurts_its_batch_mates(
    loaded: LoadedBackbone,
    make_artifact: Callable[..., Artifact],
    images: list[np.ndarray],
    gone: int,
) -> None:
    library = Library(make_artifact, random.Random(1))  # noqa: S311 - a seeded test
    digests = list(library.artifacts)[::NUM_SHAPES][:4]  # of one shape, so that they share batches
    expected = [answers_of(loaded, library.artifacts[digest], images) for digest in digests]
    batches: list[BatchReport] = []
    num_cancelled = 0
    forward = Forward(EagerPass(loaded.vit))
    budgets = ResidencyBudgets(1, 0)  # nothing stays once it is let go
    async with running(loaded, library, budgets, forward, batches.append) as local:
        for pause_s in [0.0, 0.0005, 0.001, 0.002, 0.004] * 4:
            tasks = [
                asyncio.create_task(local.compute(digest, images, deadline_s=FOREVER_S))
                for digest in digests
            ]
            await asyncio.sleep(pause_s)
            tasks[gone].cancel()
            done = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 30)
            for i, computed in enumerate(done):
                if i == gone and isinstance(computed, asyncio.CancelledError):
                    num_cancelled += 1
                    continue
                assert not isinstance(computed, BaseException)
                results = [each for each in computed.outcomes if isinstance(each, RowResult)]
                assert [each.digest for each in results] == [digests[i]] * NUM_IMAGES
                found = [each.probabilities for each in results]
                np.testing.assert_allclose(found, expected[i], atol=1e-5)
        assert local._waiting == {}
        assert local.residency.num_resident == 0
    assert num_cancelled > 0
    assert max(batch.num_artifacts for batch in batches) > 1
    assert not any(batch.failed for batch in batches)
