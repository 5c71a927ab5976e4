"""A front and an engine over the real socket, in one process."""

import asyncio
import errno
import gc
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from backbones.info import BackboneInfo, LoadedBackbone
from prompt_store.errors import NotFoundError
from service.inference.engine_client import Computed
from service.inference.errors import (
    ArtifactMismatchError,
    DeadlineExceededError,
    EngineStoppedError,
    EngineUnavailableError,
    QueueFullError,
)
from service.inference.remote import handshake, link, session
from service.inference.remote.arena import PixelArena
from service.inference.remote.client import RemoteEngine
from service.inference.remote.errors import ProtocolError
from service.inference.remote.frames import framed
from service.inference.remote.link import EngineLink
from service.inference.remote.messages import Answer, Result
from service.inference.rows import RowResult
from tests.service.inference.remote.conftest import BEAT_S

pytestmark = pytest.mark.anyio
LATER_S = 1e6


def images(count: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (3, 32, 32), dtype=np.uint8) for _ in range(count)]


def now_s(delay_s: float = LATER_S) -> float:
    return time.monotonic() + delay_s


def num_free(front: RemoteEngine) -> int:
    assert front._link is not None
    return front._link._arena.num_free


def same(left: Computed, right: Computed) -> bool:
    assert left.classes == right.classes
    assert len(left.outcomes) == len(right.outcomes)
    for a, b in zip(left.outcomes, right.outcomes, strict=True):
        assert isinstance(a, RowResult)
        assert isinstance(b, RowResult)
        assert a.digest == b.digest
        np.testing.assert_array_equal(a.probabilities, b.probabilities)
        assert (a.features is None) == (b.features is None)
        if a.features is not None:
            np.testing.assert_array_equal(a.features, b.features)
    return True


def memories() -> int:
    """Descriptors of pixel arenas that this process holds."""
    links: list[str] = []
    for each in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            links.append(str(each.readlink()))
    return sum("memfd:hgprompt-pixels" in link for link in links)


async def test_an_engine_that_cannot_be_attached_to_costs_no_descriptors(
    open_host: Any, loaded: LoadedBackbone, eventually: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[str] = []

    def refused(_connection: object, name: str, _arena: object) -> None:
        tries.append(name)
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(handshake, "attach", refused)
    async with open_host() as host:
        front = RemoteEngine(host.path, name="front", num_slots=2, on_pace=lambda *_: None)
        before = memories()
        connecting = asyncio.create_task(front.keep_connected(loaded.info))
        await eventually(lambda: len(tries) > 3)
        connecting.cancel()
        await asyncio.wait({connecting})
        del connecting  # its exception holds frames, which hold the last arena
        gc.collect()

        assert memories() == before


async def test_it_answers_what_the_engine_in_the_same_process_answers(
    open_host: Any, open_front: Any, publish: Callable[..., Any]
) -> None:
    digests = [publish("a", seed=1)[1], publish("b", seed=2, num_tokens=0, classes="xy")[1]]
    bytes_ = images(3)
    floats = [np.random.default_rng(9).standard_normal((3, 32, 32)).astype(np.float32)]
    async with open_host() as host, open_front() as front:
        for digest in (*digests, digests[0]):
            for wants_features in (False, True):
                for pixels in (bytes_, floats, [bytes_[0], *floats], []):
                    asked = {"deadline_s": now_s(), "wants_features": wants_features}
                    remote = await front.compute(digest, pixels, **asked)
                    assert same(remote, await host.local.compute(digest, pixels, **asked))
        assert num_free(front) == 16
        assert remote.classes == ("cat", "dog", "owl")


async def test_errors_arrive_as_what_they_are(
    open_host: Any, open_front: Any, publish: Callable[..., Any]
) -> None:
    _, foreign = publish("a", seed=1, backbone_digest=f"sha256:{'1' * 64}")
    missing = f"sha256:{'2' * 64}"
    async with open_host() as host, open_front() as front:
        for digest, kind in ((foreign, ArtifactMismatchError), (missing, NotFoundError)):
            with pytest.raises(kind) as remote:
                await front.compute(digest, images(1), deadline_s=now_s())
            with pytest.raises(kind) as local:
                await host.local.compute(digest, images(1), deadline_s=now_s())
            assert type(remote.value) is type(local.value)
            assert str(remote.value) == str(local.value)
        assert num_free(front) == 16


async def test_a_row_past_its_deadline_is_not_computed(
    open_host: Any, open_front: Any, publish: Callable[..., Any]
) -> None:
    _, digest = publish("a", seed=1)
    async with open_host(), open_front() as front:
        late = await front.compute(digest, images(2), deadline_s=now_s(-1))
        assert [type(each) for each in late.outcomes] == [DeadlineExceededError] * 2


async def test_the_engine_is_told_whose_share_the_images_take(
    open_host: Any, open_front: Any, publish: Callable[..., Any], eventually: Any
) -> None:
    _, digest = publish("a", seed=1)
    async with open_host(start=False) as host, open_front() as front:
        named = front.compute(digest, images(1), tenant="a", deadline_s=now_s())
        waiting = [asyncio.create_task(named)]
        waiting += [asyncio.create_task(front.compute(digest, images(1), deadline_s=now_s()))]
        await eventually(lambda: len(host.local._waiting) == 2)
        assert {row.tenant for row in host.local._waiting} == {"a", digest}
        host.start()
        await asyncio.gather(*waiting)


async def test_a_cancelled_row_keeps_its_slot_until_the_engine_has_let_go(
    open_host: Any, open_front: Any, publish: Callable[..., Any], eventually: Any
) -> None:
    _, digest = publish("a", seed=1)
    async with open_host(start=False) as host, open_front(num_slots=4) as front:
        await host.local.compute(digest, [], deadline_s=now_s())  # loaded
        waiting = asyncio.create_task(front.compute(digest, images(3), deadline_s=now_s()))
        mate = asyncio.create_task(front.compute(digest, images(1, 7), deadline_s=now_s()))
        await eventually(lambda: len(host.local._waiting) == 4)
        waiting.cancel()
        await eventually(lambda: len(host.local._waiting) == 1)
        await asyncio.sleep(0.05)
        assert num_free(front) == 0
        with pytest.raises(QueueFullError, match=r"limit of 4 \(max_queue\)") as full:
            await front.compute(digest, images(1), deadline_s=now_s())
        assert full.value.retry_after_s > 0
        host.start()
        answered = await mate
        await eventually(lambda: num_free(front) == 4)
        assert same(answered, await host.local.compute(digest, images(1, 7), deadline_s=now_s()))
        assert host.local._watched == {}


async def test_the_memory_of_a_burst_is_given_back_while_it_is_quiet(
    open_host: Any, open_front: Any, publish: Callable[..., Any], eventually: Any
) -> None:
    _, digest = publish("a", seed=1)

    def held_bytes() -> int:
        """Of pixel arenas, by this process and therefore by anyone."""
        _, *arenas = Path("/proc/self/smaps").read_text().split("hgprompt-pixels")
        return sum(1024 * int(each.split("Rss:")[1].split()[0]) for each in arenas)

    gc.collect()  # earlier tests keep some in the tracebacks of their errors
    async with open_host() as host, open_front(num_slots=16) as front:
        before = held_bytes()
        burst = await front.compute(digest, images(16), deadline_s=now_s())
        await eventually(lambda: num_free(front) == 16)
        assert held_bytes() > before
        await eventually(lambda: held_bytes() <= before)
        again = await front.compute(digest, images(16), deadline_s=now_s())
        assert same(burst, again)
        assert same(again, await host.local.compute(digest, images(16), deadline_s=now_s()))


async def test_cancelling_at_any_moment_gives_every_slot_back(
    open_host: Any, open_front: Any, publish: Callable[..., Any], eventually: Any
) -> None:
    _, digest = publish("a", seed=1)
    rng = np.random.default_rng(0)
    async with open_host() as host, open_front(num_slots=64) as front:
        await host.local.compute(digest, [], deadline_s=now_s())
        for _ in range(60):
            tasks = [
                asyncio.create_task(front.compute(digest, images(2), deadline_s=now_s()))
                for _ in range(16)
            ]
            for task in tasks:
                if rng.random() < 0.5:
                    task.cancel()
                await asyncio.sleep(float(rng.random()) * 0.001)
                if rng.random() < 0.3:
                    task.cancel()
            done = await asyncio.gather(*tasks, return_exceptions=True)
            assert {type(each) for each in done} <= {
                Computed,
                asyncio.CancelledError,
                QueueFullError,
            }
        await eventually(lambda: num_free(front) == 64)
        assert host.local._watched == {}
        assert len(host.server._sessions) == 1
        (session,) = host.server._sessions
        assert session._computations == {}
        assert session._busy_slots == set()


async def test_a_front_that_goes_away_takes_its_rows_along(
    open_host: Any, open_front: Any, publish: Callable[..., Any], eventually: Any
) -> None:
    _, digest = publish("a", seed=1)
    async with open_host(start=False) as host, open_front() as staying:
        await host.local.compute(digest, [], deadline_s=now_s())
        async with open_front() as leaving:
            lost = asyncio.create_task(leaving.compute(digest, images(3), deadline_s=now_s()))
            kept = asyncio.create_task(staying.compute(digest, images(1), deadline_s=now_s()))
            await eventually(lambda: len(host.local._waiting) == 4)
        with pytest.raises(EngineUnavailableError):
            await lost
        await eventually(lambda: len(host.local._waiting) == 1)
        host.start()
        assert len((await kept).outcomes) == 1
        await eventually(lambda: host.server.num_fronts == 1)
        await eventually(lambda: host.local._watched == {})


async def test_an_engine_that_goes_away_fails_what_waits_and_may_come_back(
    open_host: Any, open_front: Any, publish: Callable[..., Any], eventually: Any
) -> None:
    _, digest = publish("a", seed=1)
    async with open_host(start=False) as host:
        opened = open_front()
        front = await opened.__aenter__()
        waiting = asyncio.create_task(front.compute(digest, images(3), deadline_s=now_s()))
        await eventually(lambda: len(host.local._waiting) == 3)
    try:
        for asking in (waiting, front.compute(digest, images(1), deadline_s=now_s())):
            with pytest.raises(EngineUnavailableError):
                await asking
        assert not front.is_healthy
        async with open_host():
            await eventually(lambda: front.is_healthy)
            assert num_free(front) == 16
            assert len((await front.compute(digest, images(1), deadline_s=now_s())).outcomes) == 1
    finally:
        await opened.__aexit__(None, None, None)


async def test_an_engine_that_is_not_healthy_says_so(
    open_host: Any, open_front: Any, eventually: Any
) -> None:
    async with open_host() as host, open_front() as front:
        for healthy in (False, True):
            host.server._is_healthy = lambda now=healthy: now
            await eventually(lambda now=healthy: front.is_healthy == now)
            assert front._link is not None  # it is the engine that is not healthy


async def test_an_engine_is_hung_up_on_when_it_is_silent_and_not_when_it_is_idle(
    open_host: Any, open_front: Any, eventually: Any
) -> None:
    async with open_host() as host, open_front() as front:
        first = front._link
        await asyncio.sleep(BEAT_S * (link.SILENT_BEATS + 3))
        assert front._link is first
        host.server._send = lambda _: None
        await eventually(lambda: front._link is not first)


async def test_an_engine_that_has_stopped_says_so_and_frees_the_slots(
    open_host: Any, open_front: Any, publish: Callable[..., Any]
) -> None:
    resident, other = publish("a", seed=1)[1], publish("b", seed=2)[1]
    async with open_host(start=False) as host, open_front() as front:
        await host.local.compute(resident, [], deadline_s=now_s())
        host.batcher.close()
        for digest in (resident, other):
            with pytest.raises(EngineStoppedError):
                async with asyncio.timeout(10):
                    await front.compute(digest, images(2), deadline_s=now_s())
        assert num_free(front) == 16


async def test_cancelling_while_the_artifact_is_brought_gives_the_slots_back(
    open_host: Any, open_front: Any, publish: Callable[..., Any], eventually: Any
) -> None:
    _, digest = publish("a", seed=1)
    store_answers = threading.Event()
    async with open_host() as host, open_front() as front:
        host.loaders.submit(store_answers.wait, 20)
        waiting = asyncio.create_task(front.compute(digest, images(3), deadline_s=now_s()))
        await eventually(lambda: any(s._computations for s in host.server._sessions))
        waiting.cancel()
        await eventually(lambda: num_free(front) == 16)
        store_answers.set()
        assert len((await front.compute(digest, images(1), deadline_s=now_s())).outcomes) == 1


def test_a_result_crosses_the_wire_as_it_is() -> None:
    probabilities, features = np.float32([0.25, 0.75]), np.float32([1, 2, 3])
    for each in (None, features):
        sent = RowResult(probabilities, "d", 0.125, 0.5, 7, each)
        (row,) = session._rows([sent])
        found = link._outcome(msgspec.msgpack.decode(msgspec.msgpack.encode(row), type=Result))
        assert isinstance(found, RowResult)
        told = (found.digest, found.queue_s, found.forward_s, found.batch_size)
        assert told == ("d", 0.125, 0.5, 7)
        np.testing.assert_array_equal(found.probabilities, probabilities)
        np.testing.assert_equal(found.features, each)


async def test_artifacts_come_and_go_when_told(
    open_host: Any, open_front: Any, publish: Callable[..., Any], eventually: Any
) -> None:
    _, digest = publish("a", seed=1)
    async with open_host() as host, open_front() as front:
        await front.load(digest)
        assert host.local.residency.num_resident == 1
        await front.unload(digest)
        await eventually(lambda: host.local.residency.num_resident == 0)
        with pytest.raises(NotFoundError):
            await front.load(f"sha256:{'2' * 64}")


async def test_the_pace_of_the_engine_is_told(
    open_host: Any, open_front: Any, publish: Callable[..., Any], eventually: Any
) -> None:
    _, digest = publish("a", seed=1)
    told: list[tuple[int, float]] = []
    async with open_host(), open_front(on_pace=lambda *pace: told.append(pace)) as front:
        await front.compute(digest, images(3), deadline_s=now_s())
        await eventually(lambda: bool(told))
    assert sum(count for count, _ in told) == 3
    assert all(seconds > 0 for _, seconds in told)


async def test_the_labels_remembered_are_bounded(
    open_host: Any,
    open_front: Any,
    publish: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(link, "MAX_KNOWN_LABELS", 5)
    labels = {"a": ("1", "2"), "b": ("3", "4", "5"), "c": ("6",), "d": tuple("abcdef")}
    digests = {name: publish(name, classes=classes)[1] for name, classes in labels.items()}
    async with open_host(), open_front() as front:
        for asked, kept in (
            ("a", "a"),
            ("b", "ab"),
            ("a", "ba"),
            ("c", "ac"),
            ("d", ""),
            ("a", "a"),
        ):
            computed = await front.compute(digests[asked], images(1), deadline_s=now_s())
            assert computed.classes == labels[asked]
            assert list(front._link._known_classes) == [digests[name] for name in kept]
            assert front._link._num_known_labels == sum(len(labels[name]) for name in kept)


async def test_a_front_is_for_one_backbone(open_host: Any, loaded: Any, socket_path: Path) -> None:
    async with open_host():
        front = RemoteEngine(socket_path, name="x", num_slots=1, on_pace=lambda *_: None)
        other = replace(loaded.info, digest=f"sha256:{'3' * 64}")
        with pytest.raises(ProtocolError, match="this front is for sha256:333"):
            await front.keep_connected(other)


async def test_an_engine_may_come_back_in_another_arithmetic(
    open_host: Any, loaded: Any, socket_path: Path, eventually: Any
) -> None:
    told: list[BackboneInfo] = []
    front = RemoteEngine(socket_path, name="x", num_slots=1, on_pace=lambda *_: None)
    before = replace(loaded.info, dtype="bf16")
    connecting = asyncio.create_task(front.keep_connected(before, told.append))
    for _ in range(2):
        async with open_host():
            await asyncio.wait_for(front.wait_connected(), 10)
            assert told == [loaded.info]
        await eventually(lambda: not front.is_healthy)
    assert not connecting.done()
    connecting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await connecting


async def test_pixels_of_another_shape_never_reach_the_engine(
    open_host: Any, open_front: Any, publish: Callable[..., Any]
) -> None:
    _, digest = publish("a", seed=1)
    bad: Sequence[np.ndarray] = (np.zeros((3, 32, 31), np.uint8), np.zeros((3, 32, 32), np.float64))
    async with open_host(), open_front() as front:
        for each in bad:
            with pytest.raises(ValueError, match="expected"):
                await front.compute(digest, [each], deadline_s=now_s())
        assert num_free(front) == 16


async def test_connections_leave_no_descriptor_behind(
    open_host: Any, open_front: Any, publish: Callable[..., Any], eventually: Any
) -> None:
    _, digest = publish("a", seed=1)

    def num_open() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    def num_arenas() -> int:
        return Path("/proc/self/maps").read_text().count("hgprompt-pixels")

    gc.collect()  # earlier tests keep some in the tracebacks of their errors
    before_all = num_arenas()
    async with open_host() as host:

        async def one_after_another(count: int) -> None:
            for _ in range(count):
                async with open_front() as front:
                    await front.compute(digest, images(1), deadline_s=now_s())
            await eventually(lambda: host.server.num_fronts == 0)
            # The engine's thread remembers its last batch until it has another one.
            await host.local.compute(digest, images(1), deadline_s=now_s())
            await eventually(lambda: num_arenas() <= before_all)

        await one_after_another(1)
        before = num_open()
        await one_after_another(20)
        assert num_open() <= before


async def test_an_answer_that_breaks_the_rules_fails_its_request_at_once(loaded: Any) -> None:
    front = EngineLink(PixelArena(loaded.info.image_size_px, 4), 60.0, lambda *_: None)
    loop = asyncio.get_running_loop()

    class Transport(asyncio.Transport):
        def write(self, data: object) -> None:
            pass

        def abort(self) -> None:
            loop.call_soon(front.connection_lost, None)

    front.connection_made(Transport())
    asked = asyncio.create_task(
        front.compute("d", images(1), tenant=None, deadline_s=now_s(), wants_features=False)
    )
    await asyncio.sleep(0)
    front.data_received(framed(Answer(0, ("x",), ())))  # no outcome, of one image
    with pytest.raises(EngineUnavailableError):
        await asyncio.wait_for(asked, 10)
