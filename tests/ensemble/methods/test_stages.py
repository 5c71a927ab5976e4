"""Every stage of every method is told of, and the fit can be stopped in each."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, get_args

import pytest

from ensemble.errors import FitStoppedError
from ensemble.fit_result import FitResult
from ensemble.options import FitOptions, Method
from ensemble.prompt_tuning import LabelledPixels

pytestmark = pytest.mark.usefixtures("short_embedding")
Fit = Callable[..., FitResult]
ALL: tuple[Method, ...] = get_args(Method)
EVERYTHING = FitOptions(
    tuning_epochs=2,
    composition="exact",
    cotangent_refreshes=3,
    ablations=True,
)


@dataclass
class Recorder:
    """A progress callback that remembers, and a stop flag that goes up at a stage."""

    stop_at: str | None = None
    reports: list[tuple[str, int, int]] = field(default_factory=list)
    weights: list[tuple[str, Any]] = field(default_factory=list)

    def __call__(self, stage: str, step: int, total: int, **found: Any) -> None:
        self.reports.append((stage, step, total))
        if found.get("weights") is not None:
            self.weights.append((stage, found["weights"]))

    @property
    def stages(self) -> list[str]:
        """In order; one that was left and entered again, which a worker refuses, twice."""
        return [stage for stage, _ in groupby(stage for stage, _, _ in self.reports)]

    def should_stop(self) -> bool:
        return self.stop_at in self.stages


STAGES: dict[Method, list[str]] = {
    "hgprompt": [
        "screening",
        "features",
        "gradients",
        "weights",
        "gradients again",
        "weights again",
        "gradients once more",
        "weights once more",
        "refinement",
        "composite",
        "composition gap",
        "tuning",
        "tuned features",
        "ablation weights",
        "ablation refinement",
        "ablations",
    ],
    "none": ["features"],
    "vpt": ["features", "tuning", "tuned features"],
    "single": ["screening", "features", "tuning", "tuned features"],
    "mean": ["screening", "features", "tuning", "tuned features"],
    "spot": ["screening", "task embedding", "composite", "tuning", "tuned features"],
    "panda": [
        "screening",
        "task embedding",
        "source features",
        "features",
        "teacher tuning",
        "teacher features",
        "tuning",
        "tuned features",
    ],
    "h_ensemble": ["screening", "features", "weights", "composite", "tuning", "tuned features"],
    "logme": ["screening", "features", "tuning", "tuned features"],
}


@pytest.mark.parametrize("method", ALL)
def test_it_stops_soon_after_the_flag_goes_up_whatever_the_stage(
    fit: Fit, images: LabelledPixels, method: Method
) -> None:
    enough = LabelledPixels(images.pixels[:48], images.labels[:48])  # for tuning to help
    stages = STAGES[method]
    options = replace(EVERYTHING, max_sources=3)
    told = Recorder()

    fit(method=method, images=enough, options=options, progress=told)

    assert told.stages == stages
    for stage in stages:
        told = Recorder(stop_at=stage)
        with pytest.raises(FitStoppedError):
            fit(
                method=method,
                images=enough,
                options=options,
                progress=told,
                should_stop=told.should_stop,
            )
        assert told.stages == stages[: stages.index(stage) + 1]
        step, total = next(report[1:] for report in reversed(told.reports) if report[0] == stage)
        assert step < total


def test_the_weights_that_are_reported_last_are_those_of_the_fit(fit: Fit) -> None:
    told = Recorder()

    result = fit(options=EVERYTHING, progress=told)

    assert told.weights[-1] == ("refinement", result.weights.tolist())
    assert "ablation weights" in told.stages
