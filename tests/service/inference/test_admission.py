import pytest

from service.inference.admission import MAX_RETRY_S, Admission
from service.inference.errors import QueueFullError


def test_room_is_given_back() -> None:
    admission = Admission(max_images=4, max_bytes=10)
    with admission.images("a", 4):
        assert admission.num_images == 4
        with (
            pytest.raises(QueueFullError, match=r"limit of 4 \(max_queue\)"),
            admission.images("b", 1),
        ):
            pytest.fail("admitted")
    with admission.images("b", 4):
        pass
    assert admission.num_images == 0


def test_one_ensemble_cannot_take_all_of_the_queue() -> None:
    admission = Admission(max_images=100, max_bytes=10)
    held = 0
    managers = []
    while True:
        manager = admission.images("greedy", 1)
        try:
            manager.__enter__()
        except QueueFullError:
            break
        managers.append(manager)
        held += 1
    assert held == 80
    with admission.images("modest", 10):
        assert admission.num_images == 90
    for manager in managers:
        manager.__exit__(None, None, None)
    assert admission.num_images == 0


def test_bodies_are_bounded_as_they_arrive() -> None:
    admission = Admission(max_images=4, max_bytes=10)
    with admission.body() as first, admission.body() as second:
        first.add(6)
        second.add(4)
        with pytest.raises(QueueFullError, match=r"limit of 10 \(max_inflight_bytes\)"):
            second.add(1)
    with admission.body() as room:
        room.add(10)


def test_retry_after_follows_the_pace_of_the_engine() -> None:
    admission = Admission(max_images=2, max_bytes=10)

    def retry_after_s() -> float:
        with admission.images("a", 2), pytest.raises(QueueFullError) as caught:
            admission.images("b", 1).__enter__()
        return caught.value.retry_after_s

    assert retry_after_s() == 1.0
    for _ in range(50):
        admission.observe(1, 10.0)
    assert 10.0 < retry_after_s() <= 20.0
    for _ in range(50):
        admission.observe(1, 1000.0)
    assert retry_after_s() == MAX_RETRY_S
