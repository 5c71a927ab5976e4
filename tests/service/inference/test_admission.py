from contextlib import ExitStack

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


def test_large_requests_cannot_take_all_of_the_queue_either() -> None:
    admission = Admission(max_images=100, max_bytes=10)
    with ExitStack() as held:
        for _ in range(3):
            held.enter_context(admission.images("greedy", 25))
        with pytest.raises(QueueFullError) as caught:
            held.enter_context(admission.images("greedy", 25))
        assert (caught.value.scarce, caught.value.limit) == ("share", 100)
        assert str(caught.value) == (
            "75 images are waiting, 75 of them for greedy; with 25 more it would have over 4 times "
            "the room that it leaves to others, of 100 (max_queue)"
        )
        held.enter_context(admission.images("modest", 20))


def test_a_body_is_not_read_if_none_of_its_images_can_be_admitted() -> None:
    admission = Admission(max_images=100, max_bytes=10)
    with admission.images("greedy", 80), admission.images("modest", 15):
        with pytest.raises(QueueFullError) as caught, admission.body("greedy"):
            pytest.fail("admitted")
        assert caught.value.scarce == "share"
        with admission.body("modest") as room:
            room.add(1)
    with admission.body("greedy"):
        pass


def test_bodies_are_bounded_as_they_arrive() -> None:
    admission = Admission(max_images=4, max_bytes=10)
    with admission.body("a") as first, admission.body("b") as second:
        first.add(6)
        second.add(3)
        with pytest.raises(QueueFullError, match=r"limit of 10 \(max_inflight_bytes\)"):
            second.add(2)
    with admission.body("a") as room:
        room.add(10)
        assert admission.num_bytes == 10
    assert admission.num_bytes == 0


def test_a_body_that_is_alone_may_take_all_of_the_room_piece_by_piece() -> None:
    admission = Admission(max_images=4, max_bytes=1000)
    with admission.body("a") as large:
        for _ in range(10):
            large.add(100)
    with admission.body("a") as large, admission.body("b") as small:
        small.add(1)
        large.add(700)
        with pytest.raises(QueueFullError) as caught:
            large.add(100)
        assert caught.value.scarce == "bytes"


def test_slow_bodies_for_one_ensemble_leave_room_for_the_others() -> None:
    admission = Admission(max_images=4, max_bytes=1000)
    with ExitStack() as held:
        greedy = [held.enter_context(admission.body("greedy")) for _ in range(100)]
        for body in greedy[:80]:
            body.add(10)
        with pytest.raises(QueueFullError, match="800 of them for greedy") as caught:
            greedy[80].add(10)
        assert caught.value.scarce == "bytes"
        held.enter_context(admission.body("modest")).add(100)


def test_a_refusal_says_what_is_scarce() -> None:
    admission = Admission(max_images=10, max_bytes=10)
    with admission.images("a", 8):
        for name, count, scarce in (("b", 3, "queue"), ("a", 1, "share")):
            with pytest.raises(QueueFullError) as caught:
                admission.images(name, count).__enter__()
            assert caught.value.scarce == scarce


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


def test_the_pace_is_that_of_an_image_and_one_slow_batch_hardly_changes_it() -> None:
    admission = Admission(max_images=2, max_bytes=10)

    def retry_after_s() -> float:
        with admission.images("a", 2), pytest.raises(QueueFullError) as caught:
            admission.images("b", 1).__enter__()
        return caught.value.retry_after_s

    for _ in range(100):
        admission.observe(8, 40.0)  # 5 s an image, and two images wait
    assert retry_after_s() == pytest.approx(10.0, rel=0.01)
    admission.observe(1, 25.0)
    assert 11.0 < retry_after_s() < 20.0
