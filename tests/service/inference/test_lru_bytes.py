from dataclasses import dataclass

from service.inference.lru_bytes import LruBytes


@dataclass
class Thing:
    num_bytes: int


def shelf_of(budget_bytes: int, **sizes: int) -> LruBytes[Thing]:
    shelf = LruBytes[Thing](budget_bytes)
    for key, num_bytes in sizes.items():
        shelf.put(key, Thing(num_bytes))
    return shelf


def test_what_was_put_longest_ago_goes_until_the_rest_fits() -> None:
    shelf = shelf_of(10, a=4, b=4, c=4, d=3)
    assert [key for key, _ in shelf.overflow()] == ["a", "b"]
    assert [key for key, _ in shelf.overflow(held_bytes=6)] == ["c"]
    assert ("d" in shelf, len(shelf), shelf.num_bytes) == (True, 1, 3)


def test_a_thing_that_is_put_again_counts_once_and_is_the_last_to_go() -> None:
    shelf = shelf_of(10, a=4, b=4)
    shelf.put("a", Thing(5))
    assert (len(shelf), shelf.num_bytes) == (2, 9)
    assert [key for key, _ in shelf.overflow(held_bytes=5)] == ["b"]


def test_what_is_taken_out_takes_no_room() -> None:
    shelf = shelf_of(10, a=4)
    assert shelf.pop("b") is None
    assert shelf.pop("a") == Thing(4)
    assert shelf.pop("a") is None
    assert (len(shelf), shelf.num_bytes) == (0, 0)
