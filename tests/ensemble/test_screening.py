"""Which of many sources are kept, and that everything after it speaks of the right ones."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from ensemble import fitting
from ensemble import screening as screening_module
from ensemble.composition import compose, stack_prompts
from ensemble.errors import FitStoppedError
from ensemble.fit_result import FitResult
from ensemble.fitting import fit_ensemble
from ensemble.hscore import adjusted_h_score
from ensemble.options import FitOptions, Method
from ensemble.prompt_tuning import LabelledPixels
from ensemble.prompted_vit import PromptedViT
from ensemble.screening import (
    FIRST_IMAGES,
    SCREENING_IMAGES,
    SECOND_LOOK,
    Screening,
    screening_rows,
)
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


def scores_on(
    rows: Tensor, vit: PromptedViT, sources: Sequence[Tensor], images: LabelledPixels
) -> list[float]:
    """The adjusted H-score of each source on some images."""
    return [
        float(
            adjusted_h_score(
                torch.cat([vit(batch, prompt) for batch in images.pixels[rows].split(32)]),
                images.labels[rows],
                shrinkage=FitOptions().shrinkage,
            )
        )
        for prompt in sources
    ]


def test_the_best_by_the_score_on_some_training_images_are_kept(
    fit: Fit, vit: PromptedViT, sources: list[Tensor], images: LabelledPixels
) -> None:
    train, _ = stratified_split(images.labels, FitOptions().validation_fraction, 1)
    rows = train[screening_rows(images.labels[train], SCREENING_IMAGES, 1)]
    scores = scores_on(rows, vit, sources, images)
    best = sorted(range(21), key=lambda i: scores[i], reverse=True)[:6]

    result = fit(max_sources=6, seed=1)

    screening = screening_of(result)
    assert len(screening.looks) == 1
    assert screening.num_images == SCREENING_IMAGES == len(rows)
    assert screening.scores == pytest.approx(scores, rel=1e-3)
    assert screening.kept == result.kept == tuple(sorted(best))


def test_the_shrinkage_of_the_fit_is_that_of_the_scores(
    fit: Fit, vit: PromptedViT, sources: list[Tensor], images: LabelledPixels
) -> None:
    few = LabelledPixels(images.pixels[:40], images.labels[:40])
    train, _ = stratified_split(few.labels, 0.3, 0)
    features = [vit(few.pixels[train], source) for source in sources[:3]]
    expected = [float(adjusted_h_score(f, few.labels[train], shrinkage=0.6)) for f in features]

    result = fit(images=few, sources=sources[:3], options=FitOptions(max_sources=2, shrinkage=0.6))

    assert screening_of(result).scores == pytest.approx(expected, rel=1e-3)


def test_of_very_many_most_are_dropped_on_fewer_images(
    fit: Fit, vit: PromptedViT, sources: list[Tensor], images: LabelledPixels
) -> None:
    train, _ = stratified_split(images.labels, FitOptions().validation_fraction, 1)
    rows = train[screening_rows(images.labels[train], SCREENING_IMAGES, 1)]
    few = rows[screening_rows(images.labels[rows], FIRST_IMAGES, 1)]
    first = scores_on(few, vit, sources, images)
    again = sorted(range(21), key=lambda i: first[i], reverse=True)[: SECOND_LOOK * 4]
    second = dict(
        zip(again, scores_on(rows, vit, [sources[i] for i in again], images), strict=True)
    )
    best = sorted(again, key=lambda i: second[i], reverse=True)[:4]
    totals: dict[str, int] = {}

    def progress(stage: str, _step: int, total: int, **_: Any) -> None:
        totals[stage] = total

    result = fit(progress=progress, seed=1)

    screening = screening_of(result)
    assert [look.num_images for look in screening.looks] == [FIRST_IMAGES, SCREENING_IMAGES]
    assert screening.num_images == SCREENING_IMAGES
    assert list(screening.looks[0].scores.values()) == pytest.approx(first, rel=1e-3)
    assert screening.looks[0].kept == tuple(sorted(again))
    assert screening.looks[1].scores == pytest.approx(second, rel=1e-3)
    assert screening.kept == result.kept == tuple(sorted(best))
    assert screening.scores == pytest.approx([second.get(i, first[i]) for i in range(21)], rel=1e-3)
    # The images of the first look are not looked at twice.
    assert totals["screening"] == 21 * FIRST_IMAGES
    assert totals["screening again"] == 16 * (SCREENING_IMAGES - FIRST_IMAGES)


@pytest.mark.parametrize(("num_images", "num_train"), [(44, 30), (46, FIRST_IMAGES)])
def test_few_images_are_looked_at_once(
    fit: Fit, images: LabelledPixels, num_images: int, num_train: int
) -> None:
    few = LabelledPixels(images.pixels[:num_images], images.labels[:num_images])

    screening = screening_of(fit(images=few))

    assert [look.num_images for look in screening.looks] == [num_train]


def test_only_the_kept_sources_are_stacked(fit: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    stacked: list[int] = []

    def spy(prompts: Sequence[Tensor]) -> Tensor:
        stacked.append(len(prompts))
        return stack_prompts(prompts)

    monkeypatch.setattr(fitting, "stack_prompts", spy)
    fit()
    assert stacked == [4]


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

    with pytest.raises(FitStoppedError, match="of 672 forward passes"):
        fit(progress=progress, should_stop=lambda: len(steps) > 2)


def test_it_can_be_stopped_between_two_scores(
    fit: Fit, images: LabelledPixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scores of hundreds of sources take a while."""
    scored: list[Tensor] = []

    def spy(features: Tensor, *_: Any, **__: Any) -> Tensor:
        scored.append(features)
        return torch.zeros(())

    monkeypatch.setattr(screening_module, "adjusted_h_score", spy)
    few = LabelledPixels(images.pixels[:8], images.labels[:8])
    with pytest.raises(FitStoppedError):
        fit(images=few, should_stop=lambda: len(scored) == 2)
    assert len(scored) == 2


@pytest.mark.parametrize(
    ("counts", "limit", "expected"),
    [
        ([5, 5], 8, [4, 4]),
        ([5, 5], 100, [5, 5]),
        ([9, 2, 9], 12, [5, 2, 5]),
        ([1, 9], 8, [1, 7]),
        ([3, 4, 3, 4, 4], 12, [0, 4, 0, 4, 4]),
    ],
)
def test_rows_are_even_over_the_classes_that_have_room(
    counts: list[int], limit: int, expected: list[int]
) -> None:
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    labels = labels[order]

    rows = screening_rows(labels, limit, 0)

    assert torch.bincount(labels[rows], minlength=len(counts)).tolist() == expected
    assert rows.tolist() == sorted(set(rows.tolist()))


def test_rows_are_drawn_by_the_seed_from_all_over_a_class() -> None:
    """Archives hold related images side by side: the first ones are no sample."""
    labels = torch.arange(400) // 200
    draws = [screening_rows(labels, 40, seed) for seed in range(50)]

    assert torch.equal(draws[0], screening_rows(labels, 40, 0))
    assert len({tuple(rows.tolist()) for rows in draws}) == 50
    places = torch.cat(draws) % 200
    # Of 2,000 places; the standard deviation of a tenth's count is 13.
    assert 140 < int(torch.histc(places.float(), 10).min()) <= 260


def test_of_equally_large_classes_the_seed_decides() -> None:
    draws = [screening_rows(torch.arange(9), 8, seed).tolist() for seed in range(40)]

    assert {len(rows) for rows in draws} == {2}
    assert {row for rows in draws for row in rows} == set(range(9))


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
