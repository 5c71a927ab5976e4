"""One cell: what of a task reaches the fit, and of which candidate the test accuracy is."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from backbones.info import LoadedBackbone
from benchmarks.suite import compute
from benchmarks.suite.cached_features import CachedFeatures
from benchmarks.suite.cells import Cell
from benchmarks.suite.compute import compute_cell
from benchmarks.suite.records import CellRecord
from benchmarks.suite.source_prompts import load_source_prompts
from benchmarks.suite.subsets import draw_training_rows
from benchmarks.suite.target_tasks import ArchiveTasks, TargetTask, without_crop
from benchmarks.suite.variants import Variant
from ensemble.fit_result import FitResult
from ensemble.fitting import fit_ensemble
from ensemble.options import FitOptions
from ensemble.prompt_tuning import LabelledPixels

CELL = Cell("mnist", 10, 3, 4, "hgprompt")
OPTIONS = FitOptions(validation_fraction=0.2, max_sources=2)


@dataclass
class Computed:
    """A cell, what its fit was given and what it found."""

    record: CellRecord
    images: LabelledPixels
    arguments: dict[str, Any]
    found: FitResult


@pytest.fixture(scope="module")
def task(tasks: Path, backbone: LoadedBackbone) -> TargetTask:
    return ArchiveTasks(tasks).load("mnist", without_crop(backbone.info.preprocessing), 20)


@pytest.fixture(scope="module")
def computed(
    task: TargetTask,
    backbone: LoadedBackbone,
    prompts: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Computed:
    """A cell whose fit serves the candidate that is worst held out."""
    made: list[tuple[LabelledPixels, dict[str, Any], FitResult]] = []

    def spy(vit: Any, sources: Any, images: LabelledPixels, **more: Any) -> FitResult:
        found = fit_ensemble(vit, sources, images, **more)
        found = replace(found, served=found.candidates[-1])
        made.append((images, more, found))
        return found

    sources = [
        each for each in load_source_prompts(prompts, backbone.info, ()) if each.task != "mnist"
    ]
    cache = tmp_path_factory.mktemp("features")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(compute, "fit_ensemble", spy)
        record = compute_cell(
            CELL,
            variant=Variant("hgprompt", "hgprompt", OPTIONS),
            task=task,
            sources=sources,
            vit=backbone.vit,
            extract=CachedFeatures(cache, [each.prompt for each in sources]),
            run="run",
        )
    (fit,) = made
    return Computed(record, *fit)


def test_a_fit_sees_images_of_the_pool_drawn_by_the_seed_of_the_cell(
    task: TargetTask, computed: Computed
) -> None:
    rows = draw_training_rows(task.pool.labels, 10, seed=3)
    assert torch.equal(computed.images.pixels, task.pool.pixels[rows])
    assert torch.equal(computed.images.labels, task.pool.labels[rows])
    assert (computed.arguments["seed"], computed.arguments["options"]) == (3, OPTIONS)
    assert (computed.record.num_images, computed.record.num_test) == (30, 20)


def test_what_was_served_is_tested_whoever_is_best_held_out(
    task: TargetTask, computed: Computed, backbone: LoadedBackbone
) -> None:
    served, record = computed.found.served, computed.record
    features = backbone.vit(task.test.pixels, served.prompt)
    correct = served.head.logits(features).argmax(1) == task.test.labels
    assert record.correct().tolist() == correct.tolist()
    assert record.test_accuracy == pytest.approx(float(correct.double().mean()))
    assert record.chosen == record.leaderboard[-1] != record.leaderboard[0]
    assert record.chosen.test_accuracy == pytest.approx(record.test_accuracy, abs=1e-6)
    assert record.chosen.accuracy == pytest.approx(served.standing.accuracy, abs=1e-6)


def test_a_candidate_comes_with_its_cross_fitted_accuracy(computed: Computed) -> None:
    places = computed.record.leaderboard
    for place, candidate in zip(places, computed.found.candidates, strict=True):
        right = candidate.head.held_out_logits.argmax(1) == computed.images.labels
        assert place.cross_fit_accuracy == pytest.approx(float(right.double().mean()), abs=1e-6)
    assert any(place.cross_fit_accuracy != place.accuracy for place in places)


def test_sources_are_named_where_some_were_screened_out(computed: Computed) -> None:
    record = computed.record
    assert record.sources == ("count", "digits", "emoji-group", "texture")
    kept = [record.sources[i] for i in computed.found.kept]
    assert kept != list(record.sources[:2])
    assert list(record.weights) == kept
    singles = [place.source for place in record.leaderboard if place.method == "single"]
    assert sorted(filter(None, singles)) == kept
