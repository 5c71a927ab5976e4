import asyncio
from collections.abc import Callable

import pytest

from jobs.ensembles import EnsembleStore
from jobs.errors import FitNotFoundError
from jobs.records import FitId
from prompt_store.objects import ObjectStore
from service.inference.errors import NothingToServeError
from service.inference.resolver import Resolver

pytestmark = pytest.mark.anyio

Publish = Callable[..., tuple[FitId, str]]


class Clock:
    """Monotonic seconds that a test sets forward."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def resolver(ensembles: EnsembleStore, clock: Clock) -> Resolver:
    return Resolver(ensembles, ttl_s=0.25, clock=clock)


async def test_a_bare_name_is_looked_up_again_after_a_moment(
    resolver: Resolver, clock: Clock, publish: Publish
) -> None:
    _, first = publish("zoo", seed=1)
    assert (await resolver.resolve("zoo", None)).digest == first
    _, second = publish("zoo", seed=2)
    clock.now_s += 0.2
    assert (await resolver.resolve("zoo", None)).digest == first
    clock.now_s += 0.1
    served = await resolver.resolve("zoo", None)
    assert (served.version, served.digest) == (2, second)
    assert (await resolver.resolve("zoo", 1)).digest == first


async def test_a_refit_that_does_not_succeed_changes_nothing(
    resolver: Resolver,
    clock: Clock,
    publish: Publish,
    ensembles: EnsembleStore,
    make_spec: Callable[..., object],
) -> None:
    _, first = publish("zoo")
    refit = ensembles.create(make_spec("zoo"))
    assert (await resolver.resolve("zoo", None)).digest == first
    with pytest.raises(NothingToServeError, match="zoo@2 is unfinished"):
        await resolver.resolve("zoo", 2)
    ensembles.cancel(refit.fit_id)
    clock.now_s += 1
    assert (await resolver.resolve("zoo", None)).digest == first
    with pytest.raises(NothingToServeError, match="zoo@2 is cancelled"):
        await resolver.resolve("zoo", 2)


async def test_what_is_unknown_is_not_remembered(resolver: Resolver, publish: Publish) -> None:
    for version in (None, 1):
        with pytest.raises(FitNotFoundError):
            await resolver.resolve("zoo", version)
    publish("zoo")
    assert (await resolver.resolve("zoo", None)).version == 1
    assert (await resolver.resolve("zoo", 1)).version == 1


async def test_callers_at_once_share_one_look_and_may_go_away(
    resolver: Resolver, publish: Publish, ensembles: EnsembleStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish("zoo")
    looks: list[str] = []
    current = ensembles.current

    def counted(name: str) -> FitId:
        looks.append(name)
        return current(name)

    monkeypatch.setattr(ensembles, "current", counted)
    calls = [asyncio.create_task(resolver.resolve("zoo", None)) for _ in range(6)]
    await asyncio.sleep(0)
    calls[0].cancel()
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(outcomes[0], asyncio.CancelledError)
    assert {getattr(outcome, "version", None) for outcome in outcomes[1:]} == {1}
    assert looks == ["zoo"]


async def test_while_the_store_is_down_the_last_answer_stands(
    resolver: Resolver, clock: Clock, publish: Publish, objects: ObjectStore
) -> None:
    _, digest = publish("zoo")
    await resolver.resolve("zoo", None)
    root = objects._root
    away = root.with_name("away")
    root.rename(away)
    root.write_text("not a folder")
    clock.now_s += 3600
    assert (await resolver.resolve("zoo", None)).digest == digest
