"""Which of many sources are kept, and that everything after it speaks of the right ones."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ensemble.composition import compose, stack_prompts
from ensemble.errors import FitStoppedError
from ensemble.fit_result import FitResult
from ensemble.fitting import fit_ensemble
from ensemble.hscore import adjusted_h_score
from ensemble.options import FitOptions, Method
from ensemble.prompt_tuning import LabelledPixels
from ensemble.prompted_vit import PromptedViT
from ensemble.screening import SCREENING_IMAGES, Screening, screening_rows
from ensemble.splits import stratified_split

Fit = Callable[..., FitResult]
GOOD = 13


@pytest.fixture(scope="module")
def sources(trained_source: Tensor) -> list[Tensor]:
    """Twenty random source prompts, and at place 13 one that was trained on the toy task."""
    generator = torch.Generator().manual_seed(0)
    prompts = [torch.randn(trained_source.shape, generator=generator) for _ in range(20)]
    return [*prompts[:GOOD], trained_source, *prompts[GOOD:]]


@pytest.fixture(scope="module")
def images(toy_task: Callable[..., LabelledPixels]) -> LabelledPixels:
    return toy_task(250, seed=20)


@pytest.fixture
def fit(vit: PromptedViT, sources: list[Tensor], images: LabelledPixels) -> Fit:
    def run(method: Method = "single", *, max_sources: int = 4, **changes: Any) -> FitResult:
        usual: dict[str, Any] = {
            "sources": sources,
            "images": images,
            "num_classes": 2,
            "method": method,
            "options": FitOptions(max_sources=max_sources),
        }
        return fit_ensemble(vit, **(usual | changes))

    return run


def screening_of(result: FitResult) -> Screening:
    assert result.screening is not None
    return result.screening


def test_the_best_by_the_score_on_some_training_images_are_kept(
    fit: Fit, vit: PromptedViT, sources: list[Tensor], images: LabelledPixels
) -> None:
    train, _ = stratified_split(images.labels, FitOptions().validation_fraction, 0)
    by_class = [train[images.labels[train] == c][:64] for c in (0, 1)]
    rows = torch.cat(by_class).sort().values
    scores = [
        float(
            adjusted_h_score(
                torch.cat([vit(batch, prompt) for batch in images.pixels[rows].split(32)]),
                images.labels[rows],
                shrinkage=FitOptions().shrinkage,
            )
        )
        for prompt in sources
    ]
    best = sorted(range(21), key=lambda i: scores[i], reverse=True)[:4]

    result = fit()

    screening = screening_of(result)
    assert screening.num_images == SCREENING_IMAGES == len(rows)
    assert screening.scores == pytest.approx(scores, rel=1e-3)
    assert screening.kept == result.kept == tuple(sorted(best))


@pytest.mark.parametrize("max_sources", [1, 4])
def test_the_one_good_source_of_many_survives_and_is_served(fit: Fit, max_sources: int) -> None:
    result = fit("hgprompt", max_sources=max_sources)

    assert GOOD in result.kept
    assert len(result.kept) == max_sources
    assert float(result.weights[result.kept.index(GOOD)]) == result.weights.max() > 0.9
    plain = next(place for place in result.leaderboard if place.method == "none")
    assert result.chosen.accuracy > plain.accuracy + 0.1


def test_a_hundred_sources_and_two_places(fit: Fit, sources: list[Tensor]) -> None:
    generator = torch.Generator().manual_seed(9)
    more = [torch.randn(sources[0].shape, generator=generator) for _ in range(79)]

    result = fit("hgprompt", max_sources=2, sources=[*sources, *more])

    assert len(result.kept) == 2
    assert GOOD in result.kept
    assert len(screening_of(result).scores) == 100


def test_places_on_the_leaderboard_are_places_among_the_kept(
    fit: Fit, vit: PromptedViT, sources: list[Tensor], images: LabelledPixels
) -> None:
    result = fit()

    assert {place.source for place in result.leaderboard} == {0, 1, 2, 3}
    assert result.chosen.source is not None
    assert result.kept[result.chosen.source] == GOOD
    assert result.weights.tolist() == [float(i == GOOD) for i in result.kept]
    features = torch.cat([vit(batch, sources[GOOD]) for batch in images.pixels.split(32)])
    torch.testing.assert_close(result.features, features, rtol=1e-4, atol=1e-4)
    composite = compose(stack_prompts([sources[i] for i in result.kept]), result.weights)
    assert sorted(map(tuple, result.prompt.flatten(0, 1).tolist())) == sorted(
        map(tuple, composite.flatten(0, 1).tolist())
    )


def test_progress_speaks_of_all_sources(fit: Fit) -> None:
    told: list[list[float]] = []

    def progress(stage: str, step: int, total: int, *, weights: Any = None, **_: Any) -> None:
        assert 0 <= step <= total, stage
        if weights is not None:
            told.append(weights)

    options = FitOptions(max_sources=4, penalty_weight=100.0)  # a weight for everyone
    result = fit("hgprompt", options=options, progress=progress)

    ((*weights,),) = told
    assert len(weights) == 21
    assert result.weights.min() > 0.01
    assert [weights[i] for i in result.kept] == result.weights.tolist()
    assert all(weights[i] == 0 for i in range(21) if i not in result.kept)


def test_the_fit_of_the_kept_ones_is_the_fit_without_the_others(
    fit: Fit, sources: list[Tensor]
) -> None:
    screened = fit("hgprompt")

    alone = fit("hgprompt", sources=[sources[i] for i in screened.kept])

    assert alone.screening is None
    assert alone.kept == (0, 1, 2, 3)
    assert torch.equal(alone.weights, screened.weights)
    assert torch.equal(alone.prompt, screened.prompt)
    assert alone.leaderboard == screened.leaderboard


def test_the_order_of_the_sources_does_not_matter(fit: Fit, sources: list[Tensor]) -> None:
    turned = fit(sources=sources[::-1])

    assert {20 - i for i in turned.kept} == set(fit().kept)


def test_held_out_images_have_no_say(fit: Fit, images: LabelledPixels) -> None:
    _, held_out = stratified_split(images.labels, FitOptions().validation_fraction, 0)
    pixels = images.pixels.clone()
    pixels[held_out] = 255 - pixels[held_out].flip(0)

    result, other = fit(), fit(images=LabelledPixels(pixels, images.labels))

    assert result.screening == other.screening
    assert result.validation != other.validation


@pytest.mark.parametrize(
    ("method", "max_sources"), [("none", 4), ("vpt", 4), ("single", 21), ("single", 100)]
)
def test_nothing_is_screened_where_nothing_need_be_dropped(
    fit: Fit, method: Method, max_sources: int
) -> None:
    stages: list[str] = []

    def progress(stage: str, *_: Any, **__: Any) -> None:
        stages.append(stage)

    options = FitOptions(max_sources=max_sources, tuning_epochs=1)
    result = fit(method, options=options, progress=progress)

    assert (result.screening, result.kept) == (None, tuple(range(21)))
    assert "screening" not in stages


def test_it_can_be_stopped(fit: Fit) -> None:
    steps: list[int] = []

    def progress(stage: str, step: int, *_: Any, **__: Any) -> None:
        assert stage == "screening"
        steps.append(step)

    with pytest.raises(FitStoppedError, match="of 2688 forward passes"):
        fit(progress=progress, should_stop=lambda: len(steps) > 2)


@pytest.mark.parametrize(
    ("counts", "limit", "expected"),
    [
        ([5, 5], 8, [4, 4]),
        ([5, 5], 100, [5, 5]),
        ([9, 2, 9], 12, [5, 2, 5]),
        ([1, 9], 8, [1, 7]),
        ([3, 4, 3, 4, 4], 12, [0, 4, 0, 4, 4]),
        ([1] * 9, 8, [1, 1, *[0] * 7]),
    ],
)
def test_rows_are_even_over_the_classes_that_have_room(
    counts: list[int], limit: int, expected: list[int]
) -> None:
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    labels = labels[order]

    rows = screening_rows(labels, limit)

    assert torch.bincount(labels[rows], minlength=len(counts)).tolist() == expected
    assert rows.tolist() == sorted(set(rows.tolist()))


def test_scores_tell_sources_apart_however_many_classes_there_are(
    fit: Fit, sources: list[Tensor]
) -> None:
    """One image of each of 150 classes would score 0 under every source."""
    generator = torch.Generator().manual_seed(0)
    centers = torch.randint(60, 196, (150, 3, 16, 16), generator=generator)
    noise = torch.randint(-50, 50, (3, 150, 3, 16, 16), generator=generator)
    pixels = (centers + noise).flatten(0, 1).to(torch.uint8)
    images = LabelledPixels(pixels, torch.arange(150).repeat(3))

    result = fit("mean", images=images, num_classes=150, sources=sources[:5])

    scores = torch.tensor(screening_of(result).scores)
    assert screening_of(result).num_images == 64  # two of each of 32 classes
    assert scores.std() > 1e-3
    assert (scores > 0.1).all()
