"""From recorded figures to the pages."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.reporting.machine import describe_machine
from benchmarks.serving import limit_report, peers_report
from benchmarks.serving.peer_catalogue import PEERS
from benchmarks.serving.peer_runs import (
    PeerPlan,
    Unit,
    best_setup,
    is_whole,
    key_of,
    tried_setups,
    units_of,
)
from benchmarks.serving.records import (
    Backbone,
    BareRun,
    LimitRecord,
    LimitRound,
    PeerCell,
    PeerRecord,
    Provenance,
    ServerRun,
    SingleRun,
    TuningRecord,
)


@pytest.fixture
def common() -> dict[str, Any]:
    return {
        "provenance": Provenance(
            command="the command",
            started_at="2026-01-01T00:00:00+00:00",
            machine=describe_machine(torch.device("cpu")),
            device="cpu",
        ),
        "backbone": Backbone(label="84px", spec="s", precision="bf16", image_size_px=84),
    }


def run(throughput: float, *, cpu_s: float = 1.0) -> ServerRun:
    return ServerRun(
        requests=int(throughput * 2),
        throughput=throughput,
        p50_ms=10,
        p99_ms=20,
        cpu_s=cpu_s,
        client_cpu_s=0.1,
        duration_s=2,
    )


def test_the_limit_is_the_median_of_the_rounds_ratios(
    common: dict[str, Any], tmp_path: Path
) -> None:
    rounds = tuple(
        LimitRound(
            bare=BareRun(images=200, throughput=100, cpu_s=2),
            on_each_core=BareRun(images=200, throughput=120, cpu_s=2),
            one=run(one),
            many=run(50),
            single=SingleRun(p50_ms=7, decode_ms=1, forward_ms=4.5),
        )
        for one in (80, 99, 90)
    )
    record = LimitRecord(
        **common,
        picture="png48",
        num_tenants=1000,
        num_clients=64,
        batch_rates={1: 50, 32: 100},
        best_batch_size=32,
        start_s=1,
        memory_bytes=1,
        rounds=rounds,
    )
    older = record.model_copy(update={"rounds": rounds[:1]})
    page, plot = limit_report.write_limit_report([older, record], tmp_path)
    text = page.read_text()
    assert "0.90 [0.80 - 0.99] | 0.50 [0.50 - 0.50] | 0.56" in text
    assert "0.75 [0.67 - 0.82]" in text  # over 120
    assert "1.50 [1.50 - 1.50]" in text  # 7 - 1 - 4.5
    assert text.count("png48 |") == 4  # the newest only, once a table
    assert "the command" in text
    assert plot.read_text().lstrip().startswith("<?xml")


def test_peers_are_compared_round_by_round(common: dict[str, Any], tmp_path: Path) -> None:
    cell = PeerCell(
        tenants=8,
        clients=64,
        ours=(run(100), run(50)),
        peer=(run(50), run(20)),
        peer_idle_cpu=0.1,
        our_idle_cpu=0,
    )
    shared: dict[str, Any] = {**common, "picture": "png48", "version": "1.2", "peer": "mosec"}
    shared["setup"] = PEERS["mosec"].tuning[0]
    good = PeerRecord(**shared, variant="b", resident_tenants=8, cells=(cell,), start_s=3)
    failed = PeerRecord(**shared, variant="a", resident_tenants=64, failure="out\nof memory")
    tuning = TuningRecord(**common, peer="mosec", setup=PEERS["mosec"].tuning[1], run=run(77))
    page, _ = peers_report.write_peers_report([good, failed], [tuning], tmp_path)
    text = page.read_text()
    assert "| Mosec, 84px bf16 | 8 | 64 | 75 | 35 | **2.25** |" in text
    assert "- **Mosec, 64 tenants**: out of memory" in text
    assert best_setup([tuning], "mosec", "cpu") == PEERS["mosec"].tuning[1]
    assert best_setup([], "ray", "cpu") == PEERS["ray"].tuning[0]
    assert best_setup([tuning], "mosec", "cuda") == PEERS["mosec"].gpu_tuning[0]
    bf16, device = tuning.backbone, tuning.provenance.device
    assert tried_setups("mosec", bf16, device, [tuning]) == [tuning]
    fp32 = bf16.model_copy(update={"precision": "fp32"})
    for elsewhere in (("ray", bf16, device), ("mosec", fp32, device), ("mosec", bf16, "cuda")):
        assert tried_setups(*elsewhere, [tuning]) == []
    assert key_of(good)[3] == Unit("mosec", "b", 8)
    plan = PeerPlan(tenants=(8,), clients=(64,), rounds=2, duration_s=1.0)
    assert is_whole(good, plan)
    assert is_whole(failed, plan)
    for more in ({"tenants": (1, 8)}, {"clients": (1, 64)}, {"rounds": 3}, {"duration_s": 60.0}):
        assert not is_whole(good, replace(plan, **more))


def test_one_model_a_tenant_needs_a_start_for_each_number_of_tenants() -> None:
    plan = PeerPlan(tenants=(1, 8))
    assert units_of(["ray"], ["a", "b", "c"], plan) == [
        Unit("ray", "b", 8),
        Unit("ray", "c", 8),
        Unit("ray", "a", 1),
        Unit("ray", "a", 8),
    ]
    assert Unit("ray", "a", 8).tenants(plan) == (8,)
    assert Unit("ray", "b", 8).tenants(plan) == (1, 8)
