import weakref
from dataclasses import dataclass

from service.inference.fair_queue import FairQueue


@dataclass
class Item:
    tenant: str
    cancelled: bool = False


def fill(**counts: int) -> FairQueue[Item]:
    queue: FairQueue[Item] = FairQueue()
    for tenant, count in counts.items():
        for _ in range(count):
            queue.push(Item(tenant), tenant, 0.0)
    return queue


def take(queue: FairQueue[Item], count: int, **cost: float) -> list[str]:
    taken: list[str] = []
    while len(taken) < count and queue.least_served is not None:
        tenant, item = queue.pop(0.0)
        assert tenant == item.tenant
        queue.charge(tenant, cost.get(tenant, 1.0))
        taken.append(tenant)
    return taken


def test_tenants_take_turns_whatever_they_have_queued() -> None:
    taken = take(fill(greedy=100, modest=5), 10)
    assert taken.count("modest") == 5


def test_turns_are_shared_by_cost_when_it_is_known_afterwards() -> None:
    taken = take(fill(heavy=50, light=50), 44, heavy=10.0)
    assert taken.count("heavy") == 4


def test_a_charge_that_was_too_high_is_given_back() -> None:
    queue = fill(a=3, b=3)
    assert queue.least_served == 0.0
    tenant, _ = queue.pop(100.0)
    assert take(queue, 2) == ["b", "b"]
    queue.charge(tenant, -99.5)
    assert take(queue, 1) == ["a"]
    assert sorted(take(queue, 9)) == ["a", "b"]


def test_idling_earns_no_credit() -> None:
    queue = fill(busy=100)
    take(queue, 50)
    for _ in range(20):
        queue.push(Item("late"), "late", 50.0)
    assert 9 <= take(queue, 20).count("late") <= 11


def test_cancelled_items_are_skipped_uncounted_and_uncharged() -> None:
    queue: FairQueue[Item] = FairQueue()
    items = [Item("a") for _ in range(5)]
    for item in items:
        queue.push(item, "a", 0.0)
    for item in items[:4]:
        item.cancelled = True
    assert queue.num_waiting == 1
    assert queue.least_served == 0.0
    assert queue.pop()[1] is items[4]
    assert queue.least_served is None
    assert queue.num_waiting == 0


def test_cancelled_items_do_not_pile_up_while_nobody_takes_any() -> None:
    queue: FairQueue[Item] = FairQueue()
    gone: list[weakref.ref[Item]] = []
    for _ in range(1000):
        item = Item("a")
        queue.push(item, "a", 0.0)
        item.cancelled = True
        gone.append(weakref.ref(item))
    del item
    assert sum(each() is not None for each in gone) == 1
    assert len(queue._heap) < 100
    assert queue.num_waiting == 0
    assert queue.least_served is None
    queue.push(Item("a"), "a", 0.0)
    assert take(queue, 2) == ["a"]


def test_a_charge_to_a_tenant_that_does_not_wait_counts_when_it_does() -> None:
    queue = fill(b=2)
    queue.charge("a", 1.5)
    queue.push(Item("a"), "a", 0.0)
    assert take(queue, 3) == ["b", "b", "a"]


def test_a_tenant_that_waits_in_two_queues_has_one_account() -> None:
    served: dict[str, float] = {}
    first, second = FairQueue[Item](served), FairQueue[Item](served)
    for _ in range(100):
        first.push(Item("a"), "a", 0.0)
        second.push(Item("a"), "a", 0.0)
        second.push(Item("b"), "b", 0.0)
    assert take(first, 3) == ["a"] * 3
    assert take(second, 3) == ["b"] * 3
    for _ in range(48):
        assert take(first, 1) == ["a"]
        assert sorted(take(second, 3)) == ["a", "b", "b"]
    assert len(first._heap) + len(second._heap) < 20  # few entries that are out of date
    assert (first.num_waiting, second.num_waiting) == (49, 53)
    assert served == {"a": 99.0, "b": 99.0}


def test_a_tenant_that_has_been_served_leaves_only_its_account() -> None:
    """Under a load that never ends, what is looked at for each item may not grow."""
    queue = fill(busy=1000)
    for i in range(100):
        queue.push(Item(f"tenant-{i}"), f"tenant-{i}", 0.0)
    taken = take(queue, 300)

    assert taken.count("busy") == 200
    assert set(queue._items) == set(queue._entries) == {"busy"}
