import pytest
import torch
from torch import Tensor

from ensemble.candidates import Candidate
from ensemble.class_head import ClassHead, fit_class_head
from ensemble.leaderboard import standing
from ensemble.methods.choice import after_tuning, choose, cross_fitted_log_loss
from ensemble.options import Method

LABELS = torch.zeros(200, dtype=torch.int64)
HELD_OUT = torch.arange(100, 200)


def candidate(
    method: Method, wrong: range, *, sureness: float = 1.0, tuned: bool = False
) -> Candidate:
    """A candidate that takes these of 200 images for the other class."""
    logits = torch.tensor([[sureness, 0.0]]).repeat(200, 1)
    logits[torch.tensor(list(wrong), dtype=torch.long)] = torch.tensor([0.0, sureness])
    head = ClassHead(torch.zeros(2, 1), torch.zeros(2), 0.1, 1.0, logits)
    place = standing(method, None, logits[HELD_OUT], LABELS[HELD_OUT], tuned=tuned)
    nothing: Tensor = torch.zeros(0)
    return Candidate(place, nothing, nothing, nothing, head)


@pytest.mark.parametrize(
    ("learned", "simple", "chosen"),
    [
        (range(90, 120), range(110, 138), "single"),
        (range(110, 138), range(90, 120), "hgprompt"),
        (range(90, 92), range(0), "single"),
        (range(90, 92), range(91, 93), "hgprompt"),
        # All images count, not only those held out.
        (range(30), range(0), "single"),
        (range(30), range(195, 200), "single"),
    ],
)
def test_the_lowest_log_loss_over_all_images_is_chosen_and_of_equals_the_first(
    learned: range, simple: range, chosen: str
) -> None:
    ours, other = candidate("hgprompt", learned), candidate("single", simple)

    assert choose([ours, other], LABELS).standing.method == chosen


def test_a_log_loss_tells_where_accuracies_are_equal() -> None:
    ours = candidate("hgprompt", range(3), sureness=0.5)
    mean, none = candidate("mean", range(3)), candidate("none", range(3), sureness=0.8)

    assert choose([ours, mean, none], LABELS) is mean
    assert cross_fitted_log_loss(mean, LABELS) < cross_fitted_log_loss(none, LABELS)


@pytest.mark.parametrize(
    ("wrong", "chosen"),
    [
        # Half of what differs each way, and a little more: chance.
        (range(110, 138), "hgprompt"),
        # Only the other errs: 30 images are not chance, 2 are.
        (range(0), "single"),
        (range(92, 120), "hgprompt"),
    ],
)
def test_the_lowest_is_left_only_for_one_whose_accuracy_is_better_beyond_chance(
    wrong: range, chosen: str
) -> None:
    ours = candidate("hgprompt", range(90, 120))
    other = candidate("single", wrong, sureness=0.1)  # never of the lower log-loss

    assert cross_fitted_log_loss(ours, LABELS) < cross_fitted_log_loss(other, LABELS)
    assert choose([ours, other], LABELS).standing.method == chosen


def test_among_many_the_best_has_to_be_better_by_more() -> None:
    ours = candidate("hgprompt", range(6))
    better = candidate("single", range(0), sureness=0.1)

    assert choose([ours, better], LABELS) is better
    assert choose([ours, *[better] * 17], LABELS) is ours


def test_of_several_that_are_better_the_best_held_out_is_chosen() -> None:
    ours = candidate("hgprompt", range(60, 130))
    others = [
        candidate("none", range(5), sureness=0.1),
        candidate("mean", range(195, 200), sureness=0.1),
    ]

    assert choose([ours, *others], LABELS) is others[0]
    assert choose([ours], LABELS) is ours


def test_the_only_image_of_a_class_has_no_say() -> None:
    """No head can know its class without it: all that counts would be who is the least sure."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([0, 1] * 20 + [2])
    noise = torch.randn(41, 4, generator=generator)
    empty: Tensor = torch.zeros(0)

    def fitted(method: Method, features: Tensor) -> Candidate:
        head = fit_class_head(features, labels, 3)
        place = standing(method, None, head.held_out_logits, labels)
        return Candidate(place, empty, empty, empty, head)

    blind = fitted("hgprompt", noise)
    seeing = fitted("single", noise + 10.0 * labels[:, None])

    assert choose([blind, seeing], labels) is seeing
    assert cross_fitted_log_loss(seeing, labels) < 0.1


def test_a_tuned_candidate_is_served_if_it_is_at_least_as_good_held_out() -> None:
    start = candidate("hgprompt", range(90, 120))
    better = candidate("hgprompt", range(90, 110), tuned=True)
    worse = candidate("hgprompt", range(90, 130), tuned=True)

    assert after_tuning(start, [better, start]) is better
    assert after_tuning(start, [start, worse]) is start
    assert after_tuning(start, [start]) is start
