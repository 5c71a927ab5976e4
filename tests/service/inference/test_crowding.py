import pytest

from service.inference.crowding import MEMORY_S, RATIO, Crowding


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def crowding_of(clock: Clock, *tenants: str) -> Crowding:
    crowding = Crowding(clock)
    for tenant in tenants:
        crowding.asked(tenant)
    return crowding


@pytest.mark.parametrize(
    ("waiting", "expected"),
    [
        ({}, False),
        ({"greedy": 1}, False),
        ({"greedy": RATIO}, False),
        ({"greedy": RATIO + 1}, True),
        ({"greedy": 40, "modest": 4}, True),
        ({"greedy": 16, "modest": 4}, False),
        ({"greedy": 40, "modest": 40}, False),
    ],
)
def test_one_that_has_far_more_waiting_crowds_out_the_other(
    waiting: dict[str, int], expected: bool
) -> None:
    assert crowding_of(Clock(), "greedy", "modest").crowded(waiting) is expected


def test_alone_nobody_is_crowded_out() -> None:
    assert not crowding_of(Clock(), "greedy").crowded({"greedy": 1000})


def test_one_that_asked_lately_is_expected_to_ask_again() -> None:
    clock = Clock()
    crowding = crowding_of(clock, "greedy", "modest")
    clock.now_s += MEMORY_S
    assert crowding.crowded({"greedy": 1000})
    clock.now_s += 0.001
    assert not crowding.crowded({"greedy": 1000})
    crowding.asked("modest")
    assert crowding.crowded({"greedy": 1000})


def test_asking_again_is_remembered_from_then_on() -> None:
    clock = Clock()
    crowding = crowding_of(clock, "modest", "greedy")
    clock.now_s += MEMORY_S - 1
    crowding.asked("modest")
    clock.now_s += 2
    assert crowding.crowded({"greedy": 1000})


def test_one_that_waits_for_long_still_counts() -> None:
    clock = Clock()
    crowding = crowding_of(clock, "greedy", "modest")
    clock.now_s += 2 * MEMORY_S
    assert crowding.crowded({"greedy": 1000, "modest": 1})


def test_those_who_ask_for_the_same_at_random_do_not_crowd() -> None:
    tenants = [f"p{number}" for number in range(1000)]
    crowding = crowding_of(Clock(), *tenants)
    assert not crowding.crowded(dict.fromkeys(tenants[:50], 1) | {"p0": 4})
    eight = crowding_of(Clock(), *tenants[:8])
    assert not eight.crowded(dict(zip(tenants, [16, 8, 8, 8, 8, 6, 5, 1], strict=False)))


def test_one_that_asks_again_does_not_keep_the_others_in_memory() -> None:
    clock = Clock()
    crowding = crowding_of(clock, "greedy", "modest")
    clock.now_s += MEMORY_S - 1
    crowding.asked("greedy")
    clock.now_s += 2
    assert not crowding.crowded({"greedy": 1000})
