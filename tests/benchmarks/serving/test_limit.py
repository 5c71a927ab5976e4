"""The whole way with a tiny backbone: publish, serve, load, measure, report."""

import os
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.serving.errors import BenchmarkError
from benchmarks.serving.fairness import FairnessPlan, measure_fairness
from benchmarks.serving.growth import measure_growth
from benchmarks.serving.limit import LimitPlan, measure_limit
from benchmarks.serving.our_requests import MIN_REQUESTS, assignments
from benchmarks.serving.peer_catalogue import PEERS, PEERS_PYTHON
from benchmarks.serving.peer_runs import PeerPlan, Unit, measure_unit
from benchmarks.serving.peers import Arena
from benchmarks.serving.pictures import JPEG_BYTES, load_pictures
from benchmarks.serving.provenance import Measured
from benchmarks.serving.records import FairnessRecord, LimitRecord
from benchmarks.serving.report import write_reports
from benchmarks.serving.results_file import ResultsFile
from benchmarks.serving.tenants import publish_tenants

TINY = "random:vit_tiny_patch16_224?seed=0&img_size=32&depth=2"

pytestmark = pytest.mark.skipif(
    shutil.which("wrk") is None and not os.environ.get("CI"), reason="wrk is not installed"
)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Measured:
    monkeypatch.setenv("HGPROMPT_DEVICE", "cpu")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return Measured(TINY, "fp32")


def test_a_tiny_service_is_measured(measured: Measured, tmp_path: Path) -> None:
    plan = LimitPlan(num_tenants=3, rounds=1, bare_s=0.1, http_s=3.0)
    record = measure_limit(measured, "png48", plan, tmp_path / "store", tmp_path)
    (found,) = record.rounds
    assert found.one.requests > 1
    assert found.many.cpu_s > 0
    assert found.single.p50_ms > 0
    assert record.best_batch_size in record.batch_rates
    assert record.memory_bytes > 50_000_000
    ResultsFile(tmp_path / "limit.jsonl").add(record)
    assert ResultsFile(tmp_path / "limit.jsonl").read(LimitRecord) == [record]
    assert (tmp_path / "limit.md") in write_reports(tmp_path)


def test_two_tenants_are_measured_side_by_side(measured: Measured, tmp_path: Path) -> None:
    plan = FairnessPlan(clients=2, greed=4, rounds=1, duration_s=1.0)
    record = measure_fairness(measured, "png48", plan, tmp_path / "store", tmp_path)
    (found,) = record.rounds
    # The fewer clients have the fewer answers, unless they are alone or as many.
    assert found.beside_greedy.modest.throughput < found.beside_greedy.neighbour.throughput
    assert 0 < found.alone.p50_ms <= found.alone.p99_ms
    assert found.beside_equal.neighbour.requests > 1
    ResultsFile(tmp_path / "fairness.jsonl").add(record)
    assert ResultsFile(tmp_path / "fairness.jsonl").read(FairnessRecord) == [record]
    assert (tmp_path / "fairness.md") in write_reports(tmp_path)


@pytest.mark.skipif(
    not PEERS_PYTHON.exists() and not os.environ.get("CI"), reason="`make peers` has not been run"
)
def test_a_peer_is_measured_and_agrees(measured: Measured, tmp_path: Path) -> None:
    arena = Arena(
        measured=measured,
        picture="png48",
        pictures=load_pictures("png48")[:4],
        tenants=publish_tenants(measured.loaded.info, 2, tmp_path / "store"),
        tenants_path=tmp_path / "tenants.safetensors",
        scratch=tmp_path,
        start_limit_s=200.0,
    )
    arena.write_tenants()
    plan = PeerPlan(tenants=(2,), clients=(2,), rounds=1, duration_s=1.0)
    setup = PEERS["mosec"].tuning[0].model_copy(update={"threads": 1})
    record = measure_unit(arena, Unit("mosec", "c", 2), plan, setup, Console(quiet=True))
    assert record.failure is None
    assert len(record.cells) == 1
    assert record.max_difference is not None
    assert record.max_difference < 1e-5


def test_a_curve_is_measured(measured: Measured) -> None:
    record = measure_growth(measured, "classes", quick=True)
    assert [point.x for point in record.points] == [2, 10]
    assert all(point.seconds > 0 for point in record.points)


def test_a_failing_point_is_reported() -> None:
    with pytest.raises(BenchmarkError, match="neither offline-vit-s14 nor a timm model"):
        measure_growth(_Unknown("no-such-backbone", "fp32"), "classes", quick=True)


class _Unknown(Measured):
    @property
    def record(self) -> object:  # type: ignore[override]
        return None

    def provenance(self) -> object:  # type: ignore[override]
        return None


def test_every_tenant_is_asked_equally_often() -> None:
    sent = assignments(3, [b"a", b"b"])
    counts = [sum(tenant == each for tenant, _ in sent) for each in range(3)]
    assert len(sent) >= MIN_REQUESTS
    assert len(set(counts)) == 1
    assert sent == assignments(3, [b"a", b"b"])
    assert len(assignments(1000, [b"a"])) == 1000


def test_photographs_have_the_stated_size() -> None:
    sizes = [len(each) for each in load_pictures("jpeg59k")]
    assert all(0.95 * JPEG_BYTES < size <= JPEG_BYTES for size in sizes)
