import threading
from datetime import UTC, datetime

import pytest

from jobs.context import FitContext
from jobs.records import FitAttempt, FitRequest
from tests.jobs.conftest import MakeSpec


class Stopwatch:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def stopwatch() -> Stopwatch:
    return Stopwatch()


@pytest.fixture
def context(make_spec: MakeSpec, stopwatch: Stopwatch) -> FitContext:
    now = datetime(2026, 1, 2, tzinfo=UTC)
    request = FitRequest(**make_spec("fashion").fields(), version=1, created_at=now)
    return FitContext(request, FitAttempt(attempt=2, worker="w", started_at=now), stopwatch)


def test_the_newest_report_of_each_stage_is_kept(context: FitContext) -> None:
    for step in range(1, 6):
        context.report_progress("features", step, 5)
    context.report_progress("weights", 1, 9, weights={"a": 1}, objective=0.25)
    features, weights = context.take_reports()
    assert (features.stage, features.step, features.attempt) == ("features", 5, 2)
    assert weights.weights == {"a": 1.0}
    assert weights.objective == 0.25
    assert context.take_reports() == []


def test_the_rest_of_a_stage_is_extrapolated(context: FitContext, stopwatch: Stopwatch) -> None:
    context.report_progress("features", 0, 10)
    stopwatch.now_s += 4.0
    context.report_progress("features", 2, 10)
    assert context.take_reports()[0].eta_s == 16.0
    context.report_progress("weights", 0, 10)
    assert context.take_reports()[0].eta_s is None
    stopwatch.now_s += 3.0
    context.report_progress("weights", 5, 10)
    assert context.take_reports()[0].eta_s == 3.0


def test_a_stage_that_was_left_is_not_entered_again(context: FitContext) -> None:
    context.report_progress("features")
    context.report_progress("weights")
    with pytest.raises(ValueError, match="'features' was left before, on the way to 'weights'"):
        context.report_progress("features")


def test_the_first_reason_to_stop_stands(context: FitContext) -> None:
    assert not context.should_stop()
    context.stop("ended")
    context.stop("shutdown")
    assert context.should_stop()
    assert context.stop_reason == "ended"


def test_reports_of_a_thread_are_not_lost(context: FitContext) -> None:
    def report() -> None:
        for stage in range(200):
            context.report_progress(str(stage))

    thread = threading.Thread(target=report)
    thread.start()
    seen = [progress.stage for _ in range(100) for progress in context.take_reports()]
    thread.join()
    seen += [progress.stage for progress in context.take_reports()]
    assert list(dict.fromkeys(seen)) == [str(stage) for stage in range(200)]
