import asyncio
import gc
import threading
import time
from collections.abc import AsyncIterator, Callable

import numpy as np
import pytest
from PIL import Image

from backbones.info import LoadedBackbone
from images.decoding import ImageLimits
from images.errors import ImageDecodeError
from service.inference.decoding import DecodePool, DecodeReport

pytestmark = pytest.mark.anyio


class Gate:
    """Holds up the pool's thread after each image, and says how many it has decoded."""

    def __init__(self) -> None:
        self.reports: list[DecodeReport] = []
        self.open = threading.Event()
        self.open.set()

    def __call__(self, report: DecodeReport) -> None:
        self.reports.append(report)
        assert self.open.wait(30)


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
async def pool(loaded: LoadedBackbone, gate: Gate) -> AsyncIterator[DecodePool]:
    pool = DecodePool(1, ImageLimits(), loaded.info.preprocessing, report=gate)
    yield pool
    gate.open.set()
    pool.close()


async def queued(
    pool: DecodePool, tenant: str, data: bytes, count: int, done: list[str]
) -> list[asyncio.Task[np.ndarray]]:
    """Queue images of a tenant; `done` gets its name once for each that is decoded."""
    tasks = [asyncio.create_task(pool.pixels(data, tenant)) for _ in range(count)]
    for task in tasks:
        task.add_done_callback(lambda _: done.append(tenant))
    await asyncio.sleep(0)
    return tasks


async def test_pixels_and_reports(
    pool: DecodePool, gate: Gate, image: Callable[..., bytes]
) -> None:
    assert (await pool.pixels(image(), "a")).shape == (3, 32, 32)
    with pytest.raises(ImageDecodeError):
        await pool.pixels(b"no image", "a")
    pool.close()
    assert len(gate.reports) == 2
    assert all(report.wait_s >= 0 and report.decode_s > 0 for report in gate.reports)


async def test_large_images_of_one_ensemble_do_not_hold_up_the_small_ones_of_another(
    pool: DecodePool, image: Callable[..., bytes]
) -> None:
    large = image(size=(1500, 1500))
    small = image()
    done: list[str] = []
    greedy = await queued(pool, "greedy", large, 20, done)
    await greedy[0]  # its cost is known now, as in the midst of any load
    modest = await queued(pool, "modest", small, 20, done)
    await asyncio.gather(*greedy, *modest)
    before = done[: len(done) - done[::-1].index("modest")].count("greedy")
    # An equal share of the time would let one or two more in; first come, first served all 20.
    assert before <= 5, done


async def test_nobody_is_in_arrears_for_an_image_from_when_nobody_waited(
    pool: DecodePool, gate: Gate, image: Callable[..., bytes]
) -> None:
    await pool.pixels(image(size=(1500, 1500)), "a")
    gate.open.clear()
    done: list[str] = []
    others = await queued(pool, "b", image(), 30, done)
    (task,) = await queued(pool, "a", image(), 1, done)
    gate.open.set()
    await asyncio.gather(task, *others)
    assert done.index("a") <= 3, done


def num_pictures() -> int:
    return sum(issubclass(type(each), Image.Image) for each in gc.get_objects())


async def test_a_refused_image_is_let_go_at_once(
    pool: DecodePool, image: Callable[..., bytes]
) -> None:
    half = image(size=(300, 300), kind="JPEG")[:-1000]
    gc.collect()
    gc.disable()
    try:
        before = num_pictures()
        for _ in range(5):
            with pytest.raises(ImageDecodeError, match="truncated"):
                await pool.pixels(half, "a")
        assert num_pictures() <= before + 1  # the thread may not have left the last one yet
    finally:
        gc.enable()


async def test_what_no_image_should_raise_is_logged_with_where_it_was_raised(
    pool: DecodePool,
    image: Callable[..., bytes],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("a fault")

    monkeypatch.setattr("service.inference.decoding.preprocess", broken)
    with pytest.raises(ZeroDivisionError, match="a fault"):
        await pool.pixels(image(), "a")
    assert "in broken" in caplog.text


async def test_who_gives_up_frees_the_place_and_the_bytes(
    pool: DecodePool, gate: Gate, image: Callable[..., bytes]
) -> None:
    gate.open.clear()
    done: list[str] = []
    (first,) = await queued(pool, "a", image(), 1, done)
    await first
    waiting = await queued(pool, "a", image(), 10, done)
    assert pool.num_waiting == 10
    for task in waiting[:9]:
        task.cancel()
    await asyncio.gather(*waiting[:9], return_exceptions=True)
    assert pool.num_waiting == 1
    gate.open.set()
    await waiting[9]
    pool.close()
    assert len(gate.reports) == 2


async def test_what_waits_is_given_up_on_closing(
    loaded: LoadedBackbone, gate: Gate, image: Callable[..., bytes]
) -> None:
    pool = DecodePool(1, ImageLimits(), loaded.info.preprocessing, report=gate)
    gate.open.clear()
    done: list[str] = []
    (first,) = await queued(pool, "a", image(), 1, done)
    await first
    waiting = await queued(pool, "a", image(), 3, done)
    closing = asyncio.create_task(asyncio.to_thread(pool.close))
    deadline_s = time.monotonic() + 10
    while pool.num_waiting:
        assert time.monotonic() < deadline_s
        await asyncio.sleep(0.01)
    gate.open.set()
    await closing
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(result, asyncio.CancelledError) for result in results)
