import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from ensemble.class_head import (
    SHRINKAGES,
    ClassHead,
    _folds,  # pyright: ignore[reportPrivateUsage]
    calibrate,
    fit_class_head,
)
from ensemble.errors import (
    DegenerateFeaturesError,
    NonFiniteError,
    ShapeError,
    TooFewImagesError,
)

SHAPES = [(30, 6, 3), (12, 20, 3), (9, 9, 2), (25, 4, 5)]


def problem(
    num_images: int, num_features: int, num_classes: int, *, seed: int = 0, signal: float = 1.0
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(num_images) % num_classes
    means = signal * torch.randn(num_classes, num_features, generator=generator)
    spread = torch.logspace(-1, 1, num_features)
    noise = spread * torch.randn(num_images, num_features, generator=generator)
    return (5 + means[labels] + noise).double(), labels


def discriminant(features: Tensor, labels: Tensor, num_classes: int, gamma: float) -> ClassHead:
    """Regularised discriminant analysis as its formula is printed, by a dense inverse."""
    N, D = features.shape
    groups = [features[labels == c] for c in range(num_classes)]
    within = sum(
        ((group - group.mean(0)).T @ (group - group.mean(0)) for group in groups),
        torch.zeros(D, D, dtype=torch.float64),
    )
    S = within / N
    inverse = torch.linalg.inv((1 - gamma) * S + gamma * S.trace() / D * torch.eye(D))
    means = torch.stack([group.mean(0) for group in groups])
    priors = torch.tensor([len(group) / N for group in groups], dtype=torch.float64)
    bias = priors.log() - 0.5 * ((means @ inverse) * means).sum(1)
    return ClassHead(means @ inverse, bias, gamma, 1.0, torch.zeros(0))


def relative(logits: Tensor) -> Tensor:
    """Logits up to what is the same for all classes."""
    return logits - logits.mean(1, keepdim=True)


def true_temperature(head: ClassHead, features: Tensor, labels: Tensor) -> float:
    expected = discriminant(features, labels, len(head.bias), head.shrinkage)
    ratio = relative(expected.logits(features)) / relative(head.logits(features))
    return float(ratio.median())


def brute_force(features: Tensor, labels: Tensor, num_classes: int, gamma: float) -> Tensor:
    """Each image's logits by the discriminant of the other folds."""
    folds = _folds(labels)
    logits = torch.zeros(len(features), num_classes, dtype=torch.float64)
    for fold in folds.unique().tolist():
        head = discriminant(features[folds != fold], labels[folds != fold], num_classes, gamma)
        logits[folds == fold] = head.logits(features[folds == fold])
    return logits


def calibrated_log_loss(logits: Tensor, labels: Tensor) -> float:
    """Log-loss at the temperature that suits smoothed targets best, by trying many."""
    wrong = 1 / (len(labels) + 2)
    others = logits.shape[1] - 1
    targets = torch.full_like(logits, wrong / others)
    targets[torch.arange(len(labels)), labels] = 1 - wrong
    factors = torch.logspace(-2.7, 1.3, 400, dtype=torch.float64)
    best = min(factors, key=lambda f: float(functional.cross_entropy(logits * f, targets)))
    return float(functional.cross_entropy(logits * best, labels))


@pytest.mark.parametrize("shape", SHAPES)
def test_the_head_is_the_regularised_discriminant(shape: tuple[int, int, int]) -> None:
    features, labels = problem(*shape)

    head = fit_class_head(features, labels, shape[2])

    expected = discriminant(features, labels, shape[2], head.shrinkage).logits(features)
    scaled = head.logits(features) * true_temperature(head, features, labels)
    torch.testing.assert_close(relative(scaled), relative(expected), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("shape", SHAPES)
def test_held_out_logits_are_those_of_heads_that_have_not_seen_the_image(
    shape: tuple[int, int, int],
) -> None:
    features, labels = problem(*shape)

    head = fit_class_head(features, labels, shape[2])

    expected = brute_force(features, labels, shape[2], head.shrinkage)
    scaled = head.held_out_logits * true_temperature(head, features, labels)
    torch.testing.assert_close(relative(scaled), relative(expected), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("signal", [0.0, 1.0, 10.0])
def test_shrinkage_and_temperature_have_the_smallest_held_out_log_loss(signal: float) -> None:
    features, labels = problem(60, 12, 3, signal=signal)

    head = fit_class_head(features, labels, 3)

    losses = [calibrated_log_loss(brute_force(features, labels, 3, g), labels) for g in SHRINKAGES]
    found = float(functional.cross_entropy(head.held_out_logits, labels))
    assert found == pytest.approx(min(losses), rel=2e-2, abs=1e-4)
    assert losses[SHRINKAGES.index(head.shrinkage)] <= 1.02 * min(losses) + 1e-4


@pytest.mark.parametrize(("num_images", "num_classes"), [(30, 3), (200, 2)])
def test_a_head_that_is_right_on_all_images_is_not_sure_beyond_their_number(
    num_images: int, num_classes: int
) -> None:
    """By Laplace's rule of succession one more image is wrong with probability 1 / (N + 2)."""
    features, labels = problem(num_images, 12, num_classes, signal=200.0)
    strange = features[:1] + 0.5 * (features[1:2] - features[:1]) * 1.02

    head = fit_class_head(features, labels, num_classes)

    assert (head.held_out_logits.argmax(1) == labels).all()
    own = head.held_out_logits.softmax(1)[torch.arange(num_images), labels]
    # More than that where some classes are nearer to each other than others.
    assert 0.5 / (num_images + 2) < 1 - float(own.mean()) < 3 / (num_images + 2)
    # An image between two classes is not put into one of them with certainty.
    assert head.logits(strange).softmax(1).max() < 0.9


@pytest.mark.parametrize("num_classes", [2, 3])
def test_logits_that_are_right_alike_become_as_sure_as_their_number_allows(
    num_classes: int,
) -> None:
    """By the rule above, whatever is known of classes without images."""
    labels = torch.arange(12) % num_classes
    logits = 1.0 + functional.one_hot(labels, 5).double()
    logits[:, num_classes:] = -1e4

    temperature, _ = calibrate(logits, labels, torch.arange(num_classes))

    doubt = 1 - (logits / temperature).softmax(1).max(1).values
    assert doubt.tolist() == pytest.approx([1 / 14] * 12, rel=0.04)


def test_classes_without_images_do_not_count_in_the_calibration() -> None:
    features, labels = problem(60, 12, 2, signal=3.0)

    with_more, usual = (fit_class_head(features, labels, n) for n in (5, 2))

    assert with_more.temperature == pytest.approx(usual.temperature, rel=1e-3)


def test_held_out_logits_tell_the_accuracy_on_fresh_images() -> None:
    features, labels = problem(3000, 10, 3, signal=0.15)
    train = slice(0, 150)

    head = fit_class_head(features[train], labels[train], 3)

    told = float((head.held_out_logits.argmax(1) == labels[train]).double().mean())
    true = float((head.logits(features[150:]).argmax(1) == labels[150:]).double().mean())
    assert abs(told - true) < 0.1
    assert 0.5 < true < 0.95  # neither chance nor certainty


def test_held_out_accuracy_of_noise_is_that_of_chance() -> None:
    right = 0
    for seed in range(40):
        features, labels = problem(40, 10, 2, seed=seed, signal=0.0)
        right += int(
            (fit_class_head(features, labels, 2).held_out_logits.argmax(1) == labels).sum()
        )

    assert abs(right / 1600 - 0.5) < 0.06


@settings(deadline=None, max_examples=40, derandomize=True)
@given(st.lists(st.integers(0, 4), min_size=2, max_size=60))
def test_a_fold_has_as_many_of_one_class_as_of_another_of_its_size(labels: list[int]) -> None:
    classes = torch.tensor(labels)

    folds = _folds(classes)

    of_size: dict[int, list[int]] = {}
    for c in set(labels):
        of_class = torch.bincount(folds[classes == c], minlength=7).tolist()
        size = sum(of_class)
        if size == 1:
            assert sum(of_class[5:]) == 1
            continue
        assert max(of_class[:5]) - min(of_class[:5]) <= 1
        assert len([n for n in of_class if n]) == min(5, size)
        assert of_size.setdefault(size, of_class) == of_class
    for fold in folds.unique():
        assert (folds != fold).any()  # a head is fitted on something


def test_folds_do_not_follow_the_order_of_the_images() -> None:
    """Archives hold related images side by side, and images may come in rounds of five."""
    folds = _folds(torch.zeros(100, dtype=torch.int64))

    assert int((folds == torch.arange(100) % 5).sum()) < 40
    assert int((folds.roll(-1) == (folds + 1) % 5).sum()) < 40
    assert torch.equal(folds, _folds(torch.zeros(100, dtype=torch.int64)))


@pytest.mark.parametrize(("num_each", "num_classes"), [(2, 10), (2, 2), (3, 10), (4, 10)])
def test_held_out_accuracy_of_a_few_images_a_class_is_near_that_of_others(
    num_each: int, num_classes: int
) -> None:
    told, true = 0.0, 0.0
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)
        means = 0.3 * torch.randn(num_classes, 384, generator=generator)
        labels = torch.arange(100 * num_classes) % num_classes
        features = (means[labels] + torch.randn(len(labels), 384, generator=generator)).double()
        few, fewer = (slice(0, num * num_classes) for num in (num_each, num_each - 1))
        head = fit_class_head(features[few], labels[few], num_classes)
        told += float((head.held_out_logits.argmax(1) == labels[few]).double().mean()) / 8
        # It is told by heads that have one image of each class less.
        like = fit_class_head(features[fewer], labels[fewer], num_classes)
        true += float((like.logits(features).argmax(1) == labels).double().mean()) / 8
    assert abs(told - true) < 0.12


def test_logits_that_are_right_by_chance_are_made_flat() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 1e5 * torch.randn(200, 3, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 3, (200,), generator=generator)
    temperature, log_loss = calibrate(logits, labels, torch.arange(3))
    assert log_loss == pytest.approx(math.log(3), abs=2e-3)
    assert temperature > 1e6


@pytest.mark.parametrize("counts", [(60, 1), (30, 1, 1), (200, 1)])
def test_a_class_beside_only_images_leaves_room_for_errors(counts: tuple[int, ...]) -> None:
    """No image of another class can be predicted by a head that knows it."""
    generator = torch.Generator().manual_seed(0)
    means = 0.12 * torch.randn(len(counts), 384, generator=generator, dtype=torch.float64)
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    noise = torch.randn(len(labels) + 600, 384, generator=generator, dtype=torch.float64)
    head = fit_class_head(means[labels] + noise[: len(labels)], labels, len(counts))

    drawn = labels[torch.randint(len(labels), (600,), generator=generator)]
    logits = head.logits(means[drawn] + noise[len(labels) :])

    losses = functional.cross_entropy(logits, drawn, reduction="none")
    assert losses.mean() < 0.35
    assert losses.max() < 10


def test_scale_and_offset_of_the_features_do_not_matter() -> None:
    features, labels = problem(40, 6, 3)

    head, other = fit_class_head(features, labels, 3), fit_class_head(1e4 * features - 7, labels, 3)

    torch.testing.assert_close(
        other.logits(1e4 * features - 7), head.logits(features), rtol=1e-6, atol=1e-6
    )


def test_the_scale_does_not_matter_with_one_image_a_class_either() -> None:
    """There is no spread within a class to measure by, nor an image to calibrate on."""
    features, labels = problem(4, 6, 4)

    head, other = fit_class_head(features, labels, 4), fit_class_head(1e4 * features, labels, 4)

    torch.testing.assert_close(
        other.logits(1e4 * features), head.logits(features), rtol=1e-6, atol=1e-6
    )
    assert (head.logits(features).argmax(1) == labels).all()


@pytest.mark.parametrize("distance", [0.0, 1.0, 1e3])
def test_a_class_without_images_never_wins(distance: float) -> None:
    features, labels = problem(40, 6, 4)
    labels = (labels == 0).long()  # one class is three times as large as the other
    features[labels == 1] += distance

    head = fit_class_head(features, labels * 2, 4)

    assert head.weight.shape == (4, 6)
    anywhere = distance * torch.randn(200, 6, generator=torch.Generator().manual_seed(0))
    for logits in (head.logits(features), head.held_out_logits, head.logits(anywhere)):
        assert set(logits.argmax(1).tolist()) <= {0, 2}
        assert logits.softmax(1)[:, [1, 3]].max() < 0.01


def test_products_grow_with_the_number_of_classes_and_not_with_its_square() -> None:
    def products(num_classes: int) -> int:
        """Operations in matrix products where every class has images in every fold."""
        with FlopCounterMode(display=False) as counter:
            fit_class_head(*problem(320, 4, num_classes), num_classes)
        return counter.get_total_flops()

    assert products(160) <= 4 * products(40)


def test_the_only_image_of_a_class_does_not_spoil_the_calibration() -> None:
    features, labels = problem(60, 5, 2, signal=3.0)
    alone = labels.clone()
    alone[7] = 2

    head, usual = fit_class_head(features, alone, 3), fit_class_head(features, labels, 2)

    assert head.held_out_logits.isfinite().all()
    confidence = head.logits(features).softmax(1).max(1).values.mean()
    assert abs(float(confidence - usual.logits(features).softmax(1).max(1).values.mean())) < 0.1


def test_logits_survive_float32() -> None:
    """As the served head is stored: features far from 0 must not cancel in the bias."""
    features, labels = problem(60, 8, 3, signal=0.5)
    features = features + 50

    head = fit_class_head(features, labels, 3)

    served = features.float() @ head.weight.float().T + head.bias.float()
    torch.testing.assert_close(served.double(), head.logits(features), atol=2e-3, rtol=1e-3)


@settings(deadline=None, max_examples=40, derandomize=True)
@given(st.integers(2, 12), st.integers(1, 12), st.integers(2, 4), st.integers(0, 2**31))
def test_any_small_task_gives_a_finite_head(
    num_images: int, num_features: int, num_classes: int, seed: int
) -> None:
    features, labels = problem(num_images, num_features, num_classes, seed=seed)

    head = fit_class_head(features, labels % num_classes, num_classes)

    for tensor in (head.weight, head.bias, head.held_out_logits):
        assert tensor.isfinite().all()
    assert head.held_out_logits.shape == (num_images, num_classes)


@pytest.mark.parametrize("case", ["one constant", "two images", "one class", "copies", "odd one"])
def test_degenerate_tasks_give_a_finite_head(case: str) -> None:
    features, labels = problem(10, 4, 2)
    if case == "one constant":
        features[:, 1] = 3
    elif case == "two images":
        features, labels = features[:2], labels[:2]
    elif case == "one class":
        labels = torch.zeros_like(labels)
    elif case == "copies":
        features = features[:2].repeat(5, 1)
    else:  # all images but one are the same
        features = torch.cat((features[:1].repeat(9, 1), features[1:2]))

    head = fit_class_head(features, labels, 2)

    assert head.logits(features).isfinite().all()
    assert head.held_out_logits.isfinite().all()
    if case == "copies":
        assert (head.held_out_logits.argmax(1) == labels).all()


def test_float32_features_are_fitted_in_float64() -> None:
    features, labels = problem(30, 6, 3)

    head = fit_class_head(features.float(), labels, 3)

    assert (head.weight.dtype, head.logits(features.float()).dtype) == (torch.float64,) * 2


def test_inputs_that_do_not_fit_are_refused() -> None:
    features, labels = problem(10, 4, 2)

    for wrong in ((features, labels[:9]), (features[0], labels), (features, labels[:, None])):
        with pytest.raises(ShapeError, match=r"expected \(N, D\) and \(N,\)"):
            fit_class_head(*wrong, 2)
    with pytest.raises(TooFewImagesError, match="1 image"):
        fit_class_head(features[:1], labels[:1], 2)
    with pytest.raises(DegenerateFeaturesError, match="all 4 features are constant over 10"):
        fit_class_head(torch.full((10, 4), 0.1), labels, 2)
    features[3, 1] = float("inf")
    with pytest.raises(NonFiniteError, match="NaN or infinite"):
        fit_class_head(features, labels, 2)
