from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from prompt_store.errors import IdempotencyInProgressError, IdempotencyMismatchError
from prompt_store.idempotency import Answer, Claim, IdempotencyStore
from prompt_store.objects import ObjectStore

ANSWER = Answer(status=202, headers={"location": "/v1/ensembles/a"}, body=b"\x00\xff{}")
OTHER = Answer(status=409, body=b"")
KEY = "any key: ü/../\n"


@pytest.fixture
def store(objects: ObjectStore, clock: Callable[..., object]) -> IdempotencyStore:
    return IdempotencyStore(objects, clock, takeover_after_s=60)


def claim_of(found: Claim | Answer) -> Claim:
    assert isinstance(found, Claim)
    return found


def claim(store: IdempotencyStore, key: str = KEY) -> Claim:
    return claim_of(store.begin(key, "request"))


def test_a_replay_gets_the_first_answer(store: IdempotencyStore) -> None:
    assert store.finish(claim(store), ANSWER) == ANSWER
    replayed = store.begin(KEY, "request")
    assert replayed == ANSWER
    assert isinstance(replayed, Answer)
    assert replayed.body == b"\x00\xff{}"


def test_another_request_with_the_same_key_is_refused(store: IdempotencyStore) -> None:
    first = claim(store)
    with pytest.raises(IdempotencyMismatchError, match="first used for another request"):
        store.begin(KEY, "another")
    store.finish(first, ANSWER)
    with pytest.raises(IdempotencyMismatchError, match="first used for another request"):
        store.begin(KEY, "another")


def test_keys_do_not_disturb_each_other(store: IdempotencyStore) -> None:
    store.finish(claim(store, "a"), ANSWER)
    assert claim(store, "b").attempt == 1


def test_a_twin_waits_while_the_first_is_worked_on(store: IdempotencyStore) -> None:
    claim(store)
    with pytest.raises(IdempotencyInProgressError, match="has not been answered yet"):
        store.begin(KEY, "request")


def test_a_released_request_may_be_tried_again_at_once(store: IdempotencyStore) -> None:
    store.release(claim(store), refused=False)
    second = claim(store)
    assert second.attempt == 2
    with pytest.raises(IdempotencyInProgressError):
        store.begin(KEY, "request")
    store.finish(second, ANSWER)
    assert store.begin(KEY, "request") == ANSWER


def test_a_key_that_was_only_refused_is_free_for_another_request(store: IdempotencyStore) -> None:
    store.release(claim(store), refused=True)
    other = claim_of(store.begin(KEY, "another"))
    with pytest.raises(IdempotencyMismatchError):
        store.begin(KEY, "request")
    store.release(other, refused=False)
    assert claim_of(store.begin(KEY, "another")).attempt == 3
    with pytest.raises(IdempotencyMismatchError):
        store.begin(KEY, "request")


def test_a_key_is_not_free_after_an_attempt_that_may_have_done_the_work(
    store: IdempotencyStore,
) -> None:
    store.release(claim(store), refused=False)
    store.release(claim(store), refused=True)
    with pytest.raises(IdempotencyMismatchError):
        store.begin(KEY, "another")


def test_a_killed_request_is_taken_over_and_its_late_answer_is_not_kept(
    store: IdempotencyStore, clock: Callable[..., object]
) -> None:
    first = claim(store)
    clock.advance(seconds=59)
    with pytest.raises(IdempotencyInProgressError) as caught:
        store.begin(KEY, "request")
    assert caught.value.retry_after_s == 1
    clock.advance(seconds=2)
    second = claim(store)
    store.release(first, refused=True)  # says nothing about the second attempt
    with pytest.raises(IdempotencyInProgressError):
        store.begin(KEY, "request")
    assert store.finish(second, ANSWER) == ANSWER
    assert store.finish(first, OTHER) == ANSWER


def test_a_clock_that_was_wrong_blocks_no_key(
    store: IdempotencyStore, clock: Callable[..., object]
) -> None:
    claim(store)
    clock.advance(seconds=-86_400)
    assert claim(store).attempt == 2
    with pytest.raises(IdempotencyInProgressError):
        store.begin(KEY, "request")


def test_of_many_threads_one_does_the_work(store: IdempotencyStore) -> None:
    def begin(_: int) -> bool:
        try:
            return isinstance(store.begin(KEY, "request"), Claim)
        except IdempotencyInProgressError:
            return False

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(begin, range(24))).count(True) == 1
