"""The engine's passes on a GPU; run with `pytest -m gpu` where there is one."""

import copy
import threading
from collections.abc import Callable

import numpy as np
import pytest
import torch

from backbones.info import LoadedBackbone
from backbones.precision import Precision, in_precision
from prompt_store.artifacts import Artifact
from service.inference.backbone_pass import EagerPass
from service.inference.bank import ArtifactBank, BankEntry
from service.inference.batcher import Batcher
from service.inference.bucketed_pass import BucketedPass, GraphCapture
from service.inference.buckets import batch_buckets
from service.inference.engine import BatchReport, Engine
from service.inference.forward import Forward
from service.inference.gpu_forward import GpuForward
from service.inference.gpu_streams import NUM_STREAMS, GpuStreams
from service.inference.host_artifact import HostArtifact, host_artifact
from service.inference.memory import default_device_bytes
from service.inference.rows import Row, RowOutcome, RowResult

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device"),
]

TOLERANCES = {"fp32": 2e-2, "bf16": 5e-2, "fp16": 2e-2}
"""Of a probability against the CPU in float32; cuDNN may use TF32 for the patch embedding."""


@pytest.fixture
def on_gpu(loaded: LoadedBackbone) -> LoadedBackbone:
    return LoadedBackbone(loaded.info, copy.deepcopy(loaded.vit).to("cuda"))


@pytest.fixture
def artifacts(make_artifact: Callable[..., Artifact]) -> list[HostArtifact]:
    counts = (2, 40, 3)
    made = [
        make_artifact(seed, classes=tuple(f"class {i}" for i in range(count)))
        for seed, count in enumerate(counts)
    ]
    for each in made:
        each.head_weight[:] /= 10  # so that probabilities are not all 0 or 1
    return [host_artifact(f"d{i}", each) for i, each in enumerate(made)]


def rows_of(entries: list[BankEntry], count: int) -> list[Row]:
    values = np.random.default_rng(count).integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
    return [Row(each, entries[i % len(entries)], 0.0, 0.0, "a") for i, each in enumerate(values)]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_graphs_and_plain_passes_agree_with_the_cpu(
    loaded: LoadedBackbone,
    on_gpu: LoadedBackbone,
    artifacts: list[HostArtifact],
    precision: Precision,
) -> None:
    vit = in_precision(on_gpu, precision).vit
    banks = [ArtifactBank(device) for device in (torch.device("cpu"), vit.device)]
    on_cpu, there = ([bank.insert(each) for each in artifacts] for bank in banks)
    graphs = BucketedPass(vit, batch_buckets(8), GraphCapture())
    for size in (8, 3, 1, 5, 8, 3):
        expected = Forward(EagerPass(loaded.vit))(rows_of(on_cpu, size))
        for backbone in (graphs, EagerPass(vit)):
            found = GpuForward(backbone)(rows_of(there, size))
            for (mine, _), (theirs, _) in zip(found, expected, strict=True):
                np.testing.assert_allclose(mine, theirs, atol=TOLERANCES[precision])
    assert graphs.num_prepared == 3


def test_graphs_are_captured_while_artifacts_are_copied(
    on_gpu: LoadedBackbone, artifacts: list[HostArtifact]
) -> None:
    bank = ArtifactBank(on_gpu.vit.device)
    entries = [bank.insert(each) for each in artifacts]
    stop = threading.Event()
    failures: list[Exception] = []

    def churn() -> None:
        try:
            while not stop.is_set():
                for each in artifacts:
                    back = bank.to_host(bank.insert(each))
                    np.testing.assert_array_equal(back.prompt, each.prompt)
        except Exception as error:  # noqa: BLE001 - raised below
            failures.append(error)

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        graphs = GpuForward(BucketedPass(on_gpu.vit, batch_buckets(32), GraphCapture()))
        for size in (32, 24, 16, 8, 4, 2, 1) * 5:
            assert all(np.isfinite(each).all() for each, _ in graphs(rows_of(entries, size)))
    finally:
        stop.set()
        thread.join()
    assert failures == []


def test_two_threads_keep_a_gpu_busy_and_mix_nothing_up(
    loaded: LoadedBackbone, on_gpu: LoadedBackbone, artifacts: list[HostArtifact]
) -> None:
    """Every row has pixels of its own, and the batches of both threads share their buffers."""
    banks = [ArtifactBank(torch.device("cpu")), ArtifactBank(on_gpu.vit.device)]
    on_cpu, there = ([bank.insert(each) for each in artifacts] for bank in banks)
    rows = rows_of(there, 600)
    outcomes: dict[Row, RowOutcome] = {}
    arrived = threading.Condition()

    def deliver(found: list[tuple[Row, RowOutcome]]) -> None:
        with arrived:
            outcomes.update(dict(found))
            arrived.notify_all()

    reports: list[BatchReport] = []
    batcher = Batcher(8, streams=GpuStreams())
    forward = GpuForward(BucketedPass(on_gpu.vit, batch_buckets(8), GraphCapture()))
    engine = Engine(
        forward, batcher, deliver=deliver, report=reports.append, num_streams=NUM_STREAMS
    )
    engine.start()
    for begin in range(0, len(rows), 5):
        for row in rows[begin : begin + 5]:
            row.deadline_s = float("inf")
        assert batcher.submit(rows[begin : begin + 5])
    with arrived:
        assert arrived.wait_for(lambda: len(outcomes) == len(rows), 60)
    assert engine.stop(30)

    assert not any(report.failed for report in reports)
    expected = Forward(EagerPass(loaded.vit))(rows_of(on_cpu, 600))
    for row, (probabilities, _) in zip(rows, expected, strict=True):
        outcome = outcomes[row]
        assert isinstance(outcome, RowResult)
        np.testing.assert_allclose(outcome.probabilities, probabilities, atol=TOLERANCES["fp32"])


def test_an_artifact_goes_to_the_device_and_back_unchanged(
    on_gpu: LoadedBackbone, artifacts: list[HostArtifact]
) -> None:
    bank = ArtifactBank(on_gpu.vit.device)
    for each in artifacts:
        entry = bank.insert(each)
        assert entry.head_weight.is_cuda
        back = bank.to_host(entry)
        for name in ("prompt", "head_weight", "head_bias"):
            np.testing.assert_array_equal(getattr(back, name), getattr(each, name))


def test_artifacts_get_a_share_of_the_memory_that_is_free(on_gpu: LoadedBackbone) -> None:
    free_bytes, _ = torch.cuda.mem_get_info(on_gpu.vit.device)
    assert 0.4 * free_bytes < default_device_bytes(on_gpu.vit.device) < 0.6 * free_bytes
