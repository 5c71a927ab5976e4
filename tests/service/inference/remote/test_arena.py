"""The pixels' memory: what of it is held, and that giving it back touches nobody's pixels."""

import logging
import os
from collections.abc import Iterator

import numpy as np
import pytest

from service.inference.remote.arena import MAX_GIVEN_BACK, ArenaView, PixelArena
from service.inference.remote.errors import ProtocolError
from service.inference.remote.messages import Attach, Pixels

SIDE_PX = 64
SLOTS = 32


@pytest.fixture
def arena() -> Iterator[PixelArena]:
    arena = PixelArena(SIDE_PX, SLOTS)
    yield arena
    arena.close_descriptor()


def images(count: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((3, SIDE_PX, SIDE_PX), dtype=np.float32) for _ in range(count)]


def put(arena: PixelArena, pixels: list[np.ndarray]) -> tuple[Pixels, ...]:
    rows = arena.put(pixels)
    assert rows is not None
    return rows


def held_slots(arena: PixelArena) -> float:
    """Memory that the system has set aside, in slots."""
    return os.fstat(arena.descriptor).st_blocks * 512 / arena.slot_bytes


def test_memory_of_a_burst_is_given_back_bit_by_bit(arena: PixelArena) -> None:
    assert held_slots(arena) == 0
    arena.free(put(arena, images(SLOTS)))
    assert held_slots(arena) == SLOTS
    arena.give_back()
    assert held_slots(arena) == SLOTS  # they were in use since the last call
    for count in range(1, SLOTS // MAX_GIVEN_BACK + 1):
        arena.give_back()
        assert held_slots(arena) == SLOTS - count * MAX_GIVEN_BACK
    arena.give_back()
    assert arena.num_free == SLOTS


def test_what_is_in_use_or_was_of_late_stays(arena: PixelArena) -> None:
    attach = Attach("test", SLOTS, arena.slot_bytes)
    view = ArenaView(arena.descriptor, attach, SIDE_PX)
    kept, burst = images(3, seed=1), images(SLOTS - 3)
    rows = put(arena, kept)
    arena.free(put(arena, burst))
    for seed in range(2, 12):
        arena.give_back()
        lately = images(2, seed)
        now = put(arena, lately)
        for row, pixels in zip((*rows, *now), (*kept, *lately), strict=True):
            np.testing.assert_array_equal(view.image(row), pixels)
        arena.free(now)
    assert held_slots(arena) == 5
    # All of it can be used again.
    arena.free(rows)
    again = images(SLOTS, seed=20)
    for row, pixels in zip(put(arena, again), again, strict=True):
        np.testing.assert_array_equal(view.image(row), pixels)


def test_a_slot_that_is_in_use_again_keeps_its_pixels(arena: PixelArena) -> None:
    view = ArenaView(arena.descriptor, Attach("test", SLOTS, arena.slot_bytes), SIDE_PX)
    arena.free(put(arena, images(2)))
    pixels = images(2, seed=1)
    rows = put(arena, pixels)
    for _ in range(3):
        arena.give_back()
    for row, expected in zip(rows, pixels, strict=True):
        np.testing.assert_array_equal(view.image(row), expected)


def test_images_that_fill_no_whole_pages_are_given_back_too() -> None:
    arena = PixelArena(30, SLOTS)
    rng = np.random.default_rng(0)
    arena.free(put(arena, [rng.integers(0, 256, (3, 30, 30), dtype=np.uint8) for _ in range(4)]))
    assert held_slots(arena) > 0
    for _ in range(2):
        arena.give_back()
    assert held_slots(arena) == 0
    arena.close_descriptor()


def test_what_a_front_says_of_its_memory_has_to_be_so(arena: PixelArena) -> None:
    view = ArenaView(arena.descriptor, Attach("test", SLOTS, arena.slot_bytes), SIDE_PX)
    assert not view.image(Pixels(SLOTS - 1, is_float=True)).any()
    with pytest.raises(ProtocolError, match=f"slot {SLOTS} of {SLOTS}"):
        view.image(Pixels(SLOTS, is_float=False))
    for claim in (
        Attach("test", SLOTS * 2, arena.slot_bytes // 2),
        Attach("test", SLOTS - 1, arena.slot_bytes),
        Attach("test", SLOTS + 1, arena.slot_bytes),
    ):
        with pytest.raises(ProtocolError):
            ArenaView(arena.descriptor, claim, SIDE_PX)


def test_a_system_that_takes_nothing_back_is_told_of(
    arena: PixelArena, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    arena.free(put(arena, images(2)))
    arena.give_back()
    monkeypatch.setattr("service.inference.remote.arena.mmap.MADV_REMOVE", -1)
    with caplog.at_level(logging.WARNING):
        arena.give_back()
    assert "takes no shared memory back" in caplog.text
    arena.free(put(arena, images(SLOTS)))
    assert arena.num_free == SLOTS
