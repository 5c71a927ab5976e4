import pytest
from prometheus_client import CollectorRegistry

from jobs.observer import AttemptEnd, AttemptReport, StageRun
from jobs.records import FitId
from worker.metrics import WorkerMetrics


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def metrics(registry: CollectorRegistry) -> WorkerMetrics:
    return WorkerMetrics(registry)


def report(end: AttemptEnd) -> AttemptReport:
    stages = (StageRun("images", 100.0, 100.5), StageRun("features", 100.5, 103.0))
    return AttemptReport(FitId("inks", 1), 1, "mean", end, 4.0, stages)


def test_a_fit_runs_from_its_beginning_to_its_end(
    registry: CollectorRegistry, metrics: WorkerMetrics
) -> None:
    metrics.attempt_began()
    assert registry.get_sample_value("hgprompt_fits_running") == 1
    metrics.attempt_ended(report("succeeded"))
    assert registry.get_sample_value("hgprompt_fits_running") == 0


def test_only_an_attempt_that_ended_its_fit_has_a_duration(
    registry: CollectorRegistry, metrics: WorkerMetrics
) -> None:
    ends: tuple[AttemptEnd, ...] = ("succeeded", "failed", "cancelled", "overtaken", "shutdown")
    for end in (*ends, "unrecorded"):
        metrics.attempt_ended(report(end))
        assert registry.get_sample_value("hgprompt_fit_attempts_total", {"end": end}) == 1
    assert registry.get_sample_value("hgprompt_fit_seconds_sum", {"method": "mean"}) == 2 * 4.0


def test_stages_last_from_one_reading_of_the_clock_to_the_other(
    registry: CollectorRegistry, metrics: WorkerMetrics
) -> None:
    for end in ("failed", "shutdown"):
        metrics.attempt_ended(report(end))
    for stage, seconds in (("images", 0.5), ("features", 2.5)):
        told = registry.get_sample_value("hgprompt_fit_stage_seconds_sum", {"stage": stage})
        assert told == 2 * seconds
