import io

from rich.console import Console

from client.fit_progress import LOG_INTERVAL_S, FitProgressView
from client.replies import Event, Progress, Status


def event(stage: str, step: int, *, attempt: int = 1, eta_s: float | None = None) -> Event:
    progress = Progress(
        status="running", stage=stage, step=step, total=10, attempt=attempt, eta_s=eta_s
    )
    return Event(id=None, event="progress", progress=progress)


def outcome(status: Status) -> Event:
    return Event(id=None, event="outcome", progress=Progress(status=status))


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def console(*, terminal: bool) -> Console:
    return Console(file=io.StringIO(), width=80, force_terminal=terminal)


def written(target: Console) -> str:
    assert isinstance(target.file, io.StringIO)
    return target.file.getvalue()


def test_a_log_gets_a_line_for_each_stage_and_one_now_and_then() -> None:
    target, clock = console(terminal=False), Clock()
    with FitProgressView(target, clock) as view:
        for step in range(11):
            view.update(event("source_features", step, eta_s=10.4 - step))
        clock.now_s = LOG_INTERVAL_S
        view.update(event("source_features", 10))
        view.update(event("weights", 1))
        view.update(outcome("succeeded"))
    assert written(target).splitlines() == [
        "  source features 0/10, 10 s left",
        "  source features 10/10",
        "  weights 1/10",
    ]


def test_a_lost_attempt_is_mentioned() -> None:
    target = console(terminal=False)
    with FitProgressView(target, Clock()) as view:
        view.update(event("features", 3))
        view.update(event("features", 0, attempt=2))
    assert "  attempt 2: the worker was lost" in written(target)


def test_a_terminal_gets_bars_no_wider_than_it_is() -> None:
    target = console(terminal=True)
    with FitProgressView(target, Clock()) as view:
        view.update(event("source_features", 4, eta_s=61.0))
        view.update(event("a_stage_with_a_name_that_is_far_too_long", 1, eta_s=100_000.0))
        view.update(outcome("succeeded"))
    text = Console(file=io.StringIO()).render_str(written(target)).plain
    assert "source features" in text
    assert "10/10" in text
    assert "━" in text
