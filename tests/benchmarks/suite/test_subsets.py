import torch

from benchmarks.suite.subsets import draw_test_rows, draw_training_rows

# 1,500 images of three classes, sorted by class as archives are.
LABELS = torch.tensor([0] * 900 + [1] * 450 + [2] * 150)


def test_full_takes_1000_in_the_shares_of_the_classes() -> None:
    rows = draw_training_rows(LABELS, "full", seed=0)
    assert len(rows) == 1000
    assert torch.bincount(LABELS[rows]).tolist() == [600, 300, 100]
    assert torch.equal(rows, rows.unique())


def test_a_large_class_keeps_its_share_among_many_small_ones() -> None:
    """Half of 911 and of 11 each: what is rounded favours neither."""
    labels = torch.cat((torch.zeros(911), torch.arange(1, 100).repeat_interleave(11)))
    counts = torch.bincount(labels[draw_training_rows(labels, "full", seed=0)].long())
    assert counts[0] in (455, 456)
    assert set(counts[1:].tolist()) == {5, 6}


def test_shots_are_images_a_class_and_a_small_class_gives_all() -> None:
    counts = torch.bincount(LABELS[draw_training_rows(LABELS, 200, seed=0)])
    assert counts.tolist() == [200, 200, 150]


def test_fewer_shots_are_among_more_and_seeds_differ() -> None:
    few, many = (set(draw_training_rows(LABELS, n, seed=3).tolist()) for n in (10, 50))
    assert few < many
    assert few != set(draw_training_rows(LABELS, 10, seed=4).tolist())
    assert torch.equal(draw_training_rows(LABELS, 10, 3), draw_training_rows(LABELS, 10, 3))


def test_a_small_pool_is_taken_whole() -> None:
    rows = draw_training_rows(LABELS[:700], "full", seed=1)
    assert rows.tolist() == list(range(700))


def test_test_rows_are_a_fixed_choice_over_all_images() -> None:
    rows = draw_test_rows(1500, 300)
    assert torch.equal(rows, draw_test_rows(1500, 300))
    assert len(rows) == 300
    assert torch.equal(rows, rows.unique())  # sorted
    assert 100 <= int((rows >= 900).sum()) <= 140  # 120 expected of the last 600
    assert draw_test_rows(5, 300).tolist() == [0, 1, 2, 3, 4]
    assert draw_test_rows(5, None).tolist() == [0, 1, 2, 3, 4]
