"""Whole fits on a toy task, of which only one source prompt knows something."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from ensemble import fitting
from ensemble.class_head import ClassHead, fit_class_head
from ensemble.composition import align_tokens, compose, composite_digest, stack_prompts
from ensemble.errors import (
    DegenerateFeaturesError,
    FitStoppedError,
    NonFiniteError,
    OptionsError,
    ShapeError,
    TooFewImagesError,
)
from ensemble.features import extract_features
from ensemble.fit_result import FitResult
from ensemble.fitting import fit_ensemble
from ensemble.methods import tuning
from ensemble.options import SOURCE_FREE_METHODS, TUNING_METHODS, FitOptions, Method
from ensemble.prompt_tuning import LabelledPixels, TunedPrompt
from ensemble.prompted_vit import PromptedViT
from ensemble.splits import stratified_split

ToyTask = Callable[..., LabelledPixels]
MakePrompts = Callable[..., list[Tensor]]
METHODS: tuple[Method, ...] = get_args(Method)
SINGLES = {("single", i) for i in range(3)}
CANDIDATES: dict[Method, set[tuple[str, int | None]]] = {
    "hgprompt": {("hgprompt", None), ("none", None), ("mean", None), *SINGLES},
    "none": {("none", None)},
    "vpt": {("vpt", None)},
    "single": SINGLES,
    "mean": {("mean", None)},
    "spot": {("spot", 1)},
    "panda": {("panda", 2)},  # `spot` compares tokens, `panda` what they do to features
    "h_ensemble": {("h_ensemble", None)},
    "logme": {("logme", 1)},
}
STAGES = [
    "features",
    "gradients",
    "weights",
    "composite",
    "composition gap",
    "tuning",
    "tuned features",
]
TUNED = FitOptions(tuning_epochs=3, prompt_learning_rate=0.02)


@pytest.fixture(scope="module")
def sources(trained_source: Tensor) -> list[Tensor]:
    """Three source prompts (3, 4, 32); the second was trained on the toy task."""
    generator = torch.Generator().manual_seed(0)
    random = [torch.randn(trained_source.shape, generator=generator) for _ in range(2)]
    return [random[0], trained_source, random[1]]


@pytest.fixture(scope="module")
def images(toy_task: ToyTask) -> LabelledPixels:
    return toy_task(120, seed=20)


Fit = Callable[..., FitResult]


@pytest.fixture
def fit(vit: PromptedViT, sources: list[Tensor], images: LabelledPixels) -> Fit:
    """Fit with the usual inputs, but for those that a test gives."""

    def run(**changes: Any) -> FitResult:
        usual: dict[str, Any] = {"sources": sources, "images": images, "num_classes": 2}
        return fit_ensemble(vit, **(usual | changes))

    return run


def everything(result: FitResult) -> list[Tensor]:
    """All numbers of a result that would be published."""
    numbers = [result.weights, result.chosen_weights, result.prompt]
    numbers += [
        result.head.weight,
        result.head.bias,
        torch.tensor(result.diagnostics.objective_curve),
    ]
    numbers += [torch.tensor([s.accuracy, s.log_loss]) for s in result.leaderboard]
    if result.diagnostics.gradient_cosine is not None:
        numbers.append(result.diagnostics.gradient_cosine)
    return numbers


@pytest.mark.parametrize("method", METHODS)
def test_a_method_tries_its_candidates_and_serves_the_best(
    fit: Fit, sources: list[Tensor], method: Method
) -> None:
    options = FitOptions(tuning_epochs=1) if method in TUNING_METHODS else None

    result = fit(method=method, options=options)

    assert {(place.method, place.source) for place in result.leaderboard} == CANDIDATES[method]
    assert result.chosen in result.leaderboard
    assert method == "hgprompt" or result.chosen == result.leaderboard[0]
    assert all(
        (-a.accuracy, a.log_loss) <= (-b.accuracy, b.log_loss)
        for a, b in pairwise(result.leaderboard)
    )
    assert result.validation.num_images == int(result.validation.confusion_matrix.sum()) == 36
    assert result.validation.accuracy == pytest.approx(result.chosen.accuracy)
    assert (result.head.weight.shape, result.head.bias.shape) == ((2, 32), (2,))
    for weights in (result.weights, result.chosen_weights):
        if len(weights):
            assert weights.min() >= 0
            assert float(weights.sum()) == pytest.approx(1, abs=1e-9)
    if result.chosen.method == "none":
        assert result.prompt.shape == (1, 0, 32)
    elif not result.chosen.tuned and len(result.chosen_weights):
        aligned = align_tokens(stack_prompts(sources))
        made_again = compose(aligned, result.chosen_weights)
        assert composite_digest(result.prompt) == composite_digest(made_again)
    assert "head" in result.timings_s


@pytest.mark.parametrize(
    ("method", "expected"),
    [("mean", [1 / 3] * 3), ("none", []), ("single", [0.0, 1.0, 0.0])],
)
def test_the_weights_of_simple_methods(fit: Fit, method: Method, expected: list[float]) -> None:
    result = fit(method=method)

    assert result.weights.tolist() == pytest.approx(expected)
    assert torch.equal(result.weights, result.chosen_weights)
    assert (
        result.diagnostics.objective,
        result.diagnostics.gradient_cosine,
        result.diagnostics.composition_gap,
    ) == (None,) * 3
    assert (result.diagnostics.objective_curve, result.diagnostics.advice) == ((), None)
    # What costs no forward pass beyond its own is told.
    assert len(result.diagnostics.sources) == (3 if method == "single" else 0)


def test_the_learned_weights_find_the_source_that_knows_the_task(fit: Fit) -> None:
    result = fit()

    scores = [source.h_score_adjusted for source in result.diagnostics.sources]
    assert scores.index(max(scores)) == 1
    assert result.weights[1] > 0.6
    plain = next(place for place in result.leaderboard if place.method == "none")
    learned = next(place for place in result.leaderboard if place.method == "hgprompt")
    assert learned.accuracy >= plain.accuracy + 0.1


def test_the_objective_is_told_in_parts(fit: Fit) -> None:
    options = FitOptions(penalty_weight=0.02)

    result = fit(options=options)

    parts = result.diagnostics.objective
    assert parts is not None
    assert parts["total"] == pytest.approx(
        parts["h_score_adjusted"] - 0.02 * parts["gradient_penalty"], abs=1e-9
    )
    assert result.diagnostics.objective_curve[-1] == pytest.approx(parts["total"], abs=1e-12)
    assert all(a <= b for a, b in pairwise(result.diagnostics.objective_curve))
    # A vertex costs M (M - 1) = 6 of penalty; it is a candidate of the solver too.
    best = max(source.h_score_adjusted for source in result.diagnostics.sources)
    assert parts["total"] >= best - 0.02 * 6 - 1e-6
    assert 0 <= parts["h_score"] <= 1
    cosine = result.diagnostics.gradient_cosine
    assert cosine is not None
    torch.testing.assert_close(cosine.diagonal(), torch.ones(3, dtype=cosine.dtype))
    torch.testing.assert_close(cosine, cosine.T)


def test_a_large_penalty_weight_evens_the_weights_out(fit: Fit) -> None:
    free, bound = (fit(options=FitOptions(penalty_weight=w)).weights for w in (0.0, 100.0))

    assert free.max() > 0.6
    assert bound.max() < free.max() - 0.1


@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_gives_the_same_bytes(fit: Fit, method: Method) -> None:
    options = TUNED if method in {"hgprompt", "mean", *TUNING_METHODS} else None

    first, second = (fit(method=method, options=options, seed=5) for _ in range(2))

    for one, other in zip(everything(first), everything(second), strict=True):
        assert torch.equal(one, other)


def test_the_seed_decides_what_is_held_out(fit: Fit) -> None:
    first, other = fit(seed=1), fit(seed=2)

    assert first.diagnostics.sources != other.diagnostics.sources


@dataclass
class Recorder:
    """A progress callback that remembers, and a stop flag that goes up at a stage."""

    stop_at: str | None = None
    reports: list[tuple[str, int, int]] = field(default_factory=list)
    weights: list[Sequence[float]] = field(default_factory=list)

    def __call__(
        self,
        stage: str,
        step: int,
        total: int,
        *,
        weights: Sequence[float] | None = None,
        objective: float | None = None,
    ) -> None:
        self.reports.append((stage, step, total))
        if weights is not None:
            assert objective is not None
            self.weights.append(weights)

    @property
    def stages(self) -> list[str]:
        return list(dict.fromkeys(stage for stage, _, _ in self.reports))

    def should_stop(self) -> bool:
        return self.stop_at in self.stages


@pytest.mark.parametrize(
    ("method", "options", "stages"),
    [
        ("hgprompt", FitOptions(), STAGES[:5]),
        ("hgprompt", TUNED, STAGES),
        ("mean", TUNED, ["features", "tuning", "tuned features"]),
        ("single", FitOptions(), ["features"]),
        ("none", TUNED, ["features"]),
    ],
)
def test_stages_come_in_the_documented_order_and_only_forwards(
    fit: Fit, method: Method, options: FitOptions, stages: list[str]
) -> None:
    told = Recorder()

    result = fit(method=method, options=options, progress=told)

    assert told.stages == stages
    order = [stages.index(stage) for stage, _, _ in told.reports]
    assert order == sorted(order)
    for name in stages:
        steps = [step for stage, step, _ in told.reports if stage == name]
        (total,) = {total for stage, _, total in told.reports if stage == name}
        assert steps[0] == 0
        assert steps == sorted(steps)
        assert steps[-1] <= total if name == "tuning" else steps[-1] == total
        assert f"    {name} " in (fitting.__doc__ or "")
    if method == "hgprompt":
        assert told.weights == [result.weights.tolist()]


@pytest.mark.parametrize("stage", STAGES)
def test_it_stops_soon_after_the_flag_goes_up(fit: Fit, stage: str) -> None:
    told = Recorder(stop_at=stage)

    with pytest.raises(FitStoppedError):
        fit(options=TUNED, progress=told, should_stop=told.should_stop)

    assert told.stages == STAGES[: STAGES.index(stage) + 1]
    last = [(step, total) for name, step, total in told.reports if name == stage][-1]
    assert last[0] <= 1
    assert last[0] < last[1]


def test_the_weights_do_not_depend_on_held_out_pixels(fit: Fit, images: LabelledPixels) -> None:
    _, held_out = stratified_split(images.labels, FitOptions().validation_fraction, 0)
    pixels = images.pixels.clone()
    pixels[held_out] = 255 - pixels[held_out].flip(0)

    result, other = fit(), fit(images=LabelledPixels(pixels, images.labels))

    assert torch.equal(result.weights, other.weights)
    assert result.diagnostics.objective == other.diagnostics.objective
    assert result.diagnostics.sources == other.diagnostics.sources
    assert result.validation != other.validation


def test_the_weights_do_not_depend_on_held_out_labels(
    fit: Fit, images: LabelledPixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, held_out = stratified_split(images.labels, FitOptions().validation_fraction, 0)

    def split(*_: object) -> tuple[Tensor, Tensor]:
        return train, held_out

    monkeypatch.setattr(fitting, "stratified_split", split)
    labels = images.labels.clone()
    labels[held_out] = 1 - labels[held_out]

    result, other = fit(), fit(images=LabelledPixels(images.pixels, labels))

    assert torch.equal(result.weights, other.weights)
    assert result.diagnostics.objective == other.diagnostics.objective
    assert result.diagnostics.sources == other.diagnostics.sources
    assert result.chosen.accuracy > other.chosen.accuracy


def test_the_epoch_of_tuning_is_chosen_on_images_that_no_head_has_seen(
    fit: Fit, vit: PromptedViT, images: LabelledPixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, held_out = stratified_split(images.labels, FitOptions().validation_fraction, 0)
    calls: list[tuple[Tensor, dict[str, Any]]] = []
    tune_prompt = tuning.tune_prompt

    def spy(vit: PromptedViT, prompt: Tensor, *data: LabelledPixels, **kwargs: Any) -> TunedPrompt:
        assert torch.equal(data[0].pixels, images.pixels[train])
        assert torch.equal(data[1].pixels, images.pixels[held_out])
        assert torch.equal(data[0].labels, images.labels[train])
        assert torch.equal(data[1].labels, images.labels[held_out])
        calls.append((prompt, kwargs))
        return tune_prompt(vit, prompt, *data, **kwargs)

    monkeypatch.setattr(tuning, "tune_prompt", spy)

    fit(options=TUNED)

    ((prompt, kwargs),) = calls
    start: ClassHead = kwargs["initial_head"]
    (features,) = extract_features(vit, images.pixels, [prompt], batch_size=32)
    alone = fit_class_head(features[train], images.labels[train], 2)
    torch.testing.assert_close(start.weight, alone.weight)
    torch.testing.assert_close(start.bias, alone.bias)


def test_tuning_adds_a_candidate_and_takes_none_away(fit: Fit) -> None:
    untuned = fit()
    result = fit(options=TUNED)

    tuned = [place for place in result.leaderboard if place.tuned]
    assert len(tuned) == 1
    assert [place for place in result.leaderboard if not place.tuned] == list(untuned.leaderboard)
    assert result.chosen.accuracy >= untuned.chosen.accuracy
    assert torch.equal(result.weights, untuned.weights)


def test_a_tuned_prompt_is_served_where_it_is_better(
    fit: Fit, trained_source: Tensor, toy_task: ToyTask
) -> None:
    """A damaged prompt is repaired by tuning."""
    damaged = trained_source + 0.3 * torch.randn(
        trained_source.shape, generator=torch.Generator().manual_seed(0)
    )
    options = FitOptions(tuning_epochs=15, prompt_learning_rate=0.05)

    result = fit(sources=[damaged], images=toy_task(160, seed=7), method="mean", options=options)

    assert result.chosen.tuned
    assert result.chosen.accuracy > result.leaderboard[1].accuracy
    assert not torch.equal(result.prompt, damaged)


def test_one_source_and_identical_sources_leave_nothing_to_learn(
    fit: Fit, trained_source: Tensor
) -> None:
    for count in (1, 3):
        result = fit(sources=[trained_source] * count)

        assert result.weights.tolist() == pytest.approx([1 / count] * count)
        assert result.diagnostics.composition_gap is None
        learned = next(place for place in result.leaderboard if place.method == "hgprompt")
        mean = next(place for place in result.leaderboard if place.method == "mean")
        assert learned.accuracy == mean.accuracy
        assert result.diagnostics.objective is not None
        assert result.diagnostics.objective["gradient_penalty"] == pytest.approx(0, abs=1e-6)


def shuffled(prompt: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.stack([layer[torch.randperm(4, generator=generator)] for layer in prompt])


def test_alignment_makes_copies_in_another_order_one_source(
    fit: Fit, trained_source: Tensor
) -> None:
    copies = [trained_source, shuffled(trained_source)]

    aligned = fit(sources=copies, method="mean")
    apart = fit(sources=copies, method="mean", options=FitOptions(align=False))

    assert any(torch.allclose(aligned.prompt, copy) for copy in copies)
    assert not any(torch.allclose(apart.prompt, copy, atol=0.05) for copy in copies)
    assert aligned.chosen.log_loss < apart.chosen.log_loss
    assert (
        fit(sources=copies).diagnostics.composition_gap is None
    )  # once aligned, they do not differ


@pytest.mark.parametrize("num_layers", [1, 3])
def test_shallow_and_deep_sources_are_composed(
    fit: Fit, make_prompts: MakePrompts, num_layers: int
) -> None:
    result = fit(sources=make_prompts(3, num_layers=num_layers), options=TUNED, method="mean")

    assert result.prompt.shape == (num_layers, 3, 32)


def test_a_class_of_one_image_can_be_learned(fit: Fit, images: LabelledPixels) -> None:
    labels = images.labels.clone()
    labels[17] = 2

    result = fit(images=LabelledPixels(images.pixels, labels), num_classes=3, options=TUNED)

    assert result.head.weight.shape == (3, 32)
    assert result.head.logits(torch.zeros(1, 32)).isfinite().all()
    assert result.chosen.accuracy > 0.6


def test_two_images_of_each_class_are_enough(fit: Fit, images: LabelledPixels) -> None:
    for method in METHODS:
        result = fit(
            images=LabelledPixels(images.pixels[:4], images.labels[:4]),
            method=method,
            options=FitOptions(tuning_epochs=1),
        )
        assert result.validation.num_images == 2
        assert result.head.bias.isfinite().all()


def test_duplicate_images_are_no_obstacle(fit: Fit, images: LabelledPixels) -> None:
    rows = torch.arange(30) % 6

    result = fit(images=LabelledPixels(images.pixels[rows], images.labels[rows]))

    assert result.weights.isfinite().all()
    assert result.chosen.accuracy == 1


def test_images_that_are_all_the_same_are_refused(fit: Fit, images: LabelledPixels) -> None:
    same = LabelledPixels(images.pixels[:1].expand(120, -1, -1, -1).contiguous(), images.labels)

    for method in METHODS:
        options = FitOptions(tuning_epochs=1)
        with pytest.raises(DegenerateFeaturesError, match="constant over"):
            fit(images=same, method=method, options=options)


@pytest.mark.parametrize("method", METHODS)
def test_inputs_that_do_not_fit_are_refused(
    fit: Fit, images: LabelledPixels, sources: list[Tensor], method: Method
) -> None:
    pixels, labels = images.pixels, images.labels

    with pytest.raises(ShapeError, match="120 images but 119 labels"):
        fit(images=LabelledPixels(pixels, labels[1:]), method=method, options=TUNED)
    with pytest.raises(ShapeError, match=r"labels from 1 to 2; they must be 0 to 1"):
        fit(images=LabelledPixels(pixels, labels + 1), method=method, options=TUNED)
    with pytest.raises(TooFewImagesError, match="1 class"):
        fit(num_classes=1, method=method, options=TUNED)
    with pytest.raises(TooFewImagesError, match="0 images"):
        fit(images=LabelledPixels(pixels[:0], labels[:0]), method=method, options=TUNED)
    with pytest.raises(TooFewImagesError, match="2 images in 2 classes"):
        fit(images=LabelledPixels(pixels[:2], labels[:2]), method=method, options=TUNED)
    if method in SOURCE_FREE_METHODS:
        return
    with pytest.raises(ShapeError, match="needs at least 1 source prompt, got 0"):
        fit(sources=[], method=method, options=TUNED)
    with pytest.raises(ShapeError, match="all must be the same"):
        fit(sources=[sources[0], sources[1][:1]], method=method, options=TUNED)
    with pytest.raises(ShapeError, match=r"\(3, 0, 32\); expected \(L, P, D\)"):
        fit(sources=[sources[0][:, :0]], method=method, options=TUNED)
    with pytest.raises(ShapeError, match="does not fit"):
        fit(sources=[sources[0][:2]], method=method, options=TUNED)
    with pytest.raises(ShapeError, match="does not fit"):
        fit(sources=[sources[0][..., :31]], method=method, options=TUNED)
    with pytest.raises(NonFiniteError, match="source prompts contain NaN"):
        fit(sources=[sources[0] * float("nan")], method=method, options=TUNED)


def test_a_method_that_tunes_is_refused_without_tuning(fit: Fit) -> None:
    for method in TUNING_METHODS:
        with pytest.raises(OptionsError, match=f"'{method}' tunes a prompt, so tuning_epochs"):
            fit(method=method)
