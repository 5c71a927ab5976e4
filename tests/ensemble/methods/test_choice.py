from dataclasses import replace

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


def candidate(method: Method, wrong: range, *, tuned: bool = False) -> Candidate:
    """A candidate that takes these of 200 images, of class 0, for class 1."""
    logits = torch.tensor([[1.0, 0.0]]).repeat(200, 1)
    logits[torch.tensor(list(wrong), dtype=torch.long)] = torch.tensor([0.0, 1.0])
    head = ClassHead(torch.zeros(2, 1), torch.zeros(2), 0.1, 1.0, logits)
    place = standing(method, None, logits[HELD_OUT], LABELS[HELD_OUT], tuned=tuned)
    nothing: Tensor = torch.zeros(0)
    return Candidate(place, nothing, nothing, nothing, head)


def padded(logits: Tensor) -> Tensor:
    """Logits of 200 classes, of which all but the first two are out of the question."""
    return torch.nn.functional.pad(logits, (0, 198), value=-9.0)


@pytest.mark.parametrize(
    ("learned", "simple", "chosen"),
    [
        # Half of what differs each way, and a little more: chance.
        (range(90, 120), range(110, 138), "hgprompt"),
        # Only the learned ensemble errs: 30 images are not chance, 2 are.
        (range(90, 120), range(0), "single"),
        (range(90, 92), range(0), "hgprompt"),
        (range(0), range(90, 120), "hgprompt"),
        # All images count, not only those held out.
        (range(30), range(0), "single"),
        (range(30), range(195, 200), "single"),
    ],
)
def test_a_simple_candidate_is_chosen_only_if_it_is_better_beyond_chance(
    learned: range, simple: range, chosen: str
) -> None:
    ours, other = candidate("hgprompt", learned), candidate("single", simple)

    assert choose([ours], [other], LABELS).standing.method == chosen


def test_among_many_the_best_has_to_be_better_by_more() -> None:
    ours, better = candidate("hgprompt", range(6)), candidate("single", range(0))

    assert choose([ours], [better], LABELS) is better
    assert choose([ours], [better] * 17, LABELS) is ours


def test_of_the_favoured_the_lowest_log_loss_is_chosen_and_of_equals_the_first() -> None:
    ours, mean = candidate("hgprompt", range(90, 93)), candidate("mean", range(90, 92))
    alike, none = candidate("single", range(90, 92)), candidate("none", range(0))

    assert choose([ours, mean, alike], [], LABELS) is mean
    assert choose([ours, alike, mean], [], LABELS) is alike
    # It is ahead of all, but not beyond chance.
    assert choose([ours, mean, alike], [none], LABELS) is mean
    assert cross_fitted_log_loss(mean, LABELS) < cross_fitted_log_loss(ours, LABELS)


def test_the_winner_is_left_for_any_that_is_better_beyond_chance_the_favoured_too() -> None:
    sure, unsure = candidate("hgprompt", range(0)), candidate("mean", range(60))
    none = candidate("none", range(30))
    logits = 0.1 * sure.head.held_out_logits
    ours = replace(sure, head=replace(sure.head, held_out_logits=logits))
    candidates = [ours, none, unsure]

    assert cross_fitted_log_loss(unsure, LABELS) < cross_fitted_log_loss(ours, LABELS)
    assert choose([ours, unsure], candidates, LABELS) is ours


def test_images_that_no_head_can_know_do_not_hide_who_is_better() -> None:
    ours, better = candidate("hgprompt", range(4)), candidate("single", range(0))
    # Seven images of class 0, and classes of one image each, which both get wrong.
    labels = torch.cat([LABELS[:7], torch.arange(2, 195)])
    wide = [
        replace(c, head=replace(c.head, held_out_logits=padded(c.head.held_out_logits)))
        for c in (ours, better)
    ]
    assert choose(wide[:1], wide[1:], labels) is wide[1]
    assert choose(wide[:1], wide[1:], torch.arange(200)) is wide[0]  # there is nothing to go by


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

    assert choose([blind, seeing], [], labels) is seeing
    assert cross_fitted_log_loss(seeing, labels) < 0.1


def test_of_several_that_are_better_the_best_held_out_is_chosen() -> None:
    ours = candidate("hgprompt", range(60, 130))
    others = [candidate("none", range(5)), candidate("mean", range(195, 200))]

    assert choose([ours], others, LABELS) is others[0]
    assert choose([ours], others[::-1], LABELS) is others[0]
    assert choose([ours], [], LABELS) is ours


def test_a_tuned_candidate_is_served_if_it_is_at_least_as_good_held_out() -> None:
    start = candidate("hgprompt", range(90, 120))
    better = candidate("hgprompt", range(90, 110), tuned=True)
    worse = candidate("hgprompt", range(90, 130), tuned=True)
    equal = candidate("hgprompt", range(90, 120), tuned=True)

    assert after_tuning(start, [better, start]) is better
    assert after_tuning(start, [start, worse]) is start
    assert after_tuning(start, [start, equal]) is equal
    assert after_tuning(start, [start]) is start
