import asyncio
import random
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.ensembles import EnsembleStore
from jobs.errors import EnsembleDeletedError, FitNotFoundError
from jobs.records import FitId
from prompt_store.aliases import Move
from prompt_store.errors import NotFoundError, StoreUnavailableError
from prompt_store.names import AliasReference, NameReference
from prompt_store.objects import ObjectStore
from prompt_store.splits import Share, Split
from service.inference.errors import NothingToServeError
from service.inference.resolver import MAX_LOOKS, Reference, Resolver, Served

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
    return Resolver(ensembles, ttl_s=0.25, rng=random.Random(0), clock=clock)  # noqa: S311


async def test_a_bare_name_is_looked_up_again_after_a_moment(
    resolver: Resolver, clock: Clock, publish: Publish
) -> None:
    _, first = publish("zoo", seed=1)
    assert (await resolver.resolve(NameReference("zoo", None))).digest == first
    _, second = publish("zoo", seed=2)
    clock.now_s += 0.2
    assert (await resolver.resolve(NameReference("zoo", None))).digest == first
    clock.now_s += 0.1
    served = await resolver.resolve(NameReference("zoo", None))
    assert (served.version, served.digest) == (2, second)
    assert (await resolver.resolve(NameReference("zoo", 1))).digest == first


async def test_a_refit_that_does_not_succeed_changes_nothing(
    resolver: Resolver,
    clock: Clock,
    publish: Publish,
    ensembles: EnsembleStore,
    make_spec: Callable[..., object],
) -> None:
    _, first = publish("zoo")
    refit = ensembles.create(make_spec("zoo"))
    assert (await resolver.resolve(NameReference("zoo", None))).digest == first
    with pytest.raises(NothingToServeError, match="zoo@2 is unfinished"):
        await resolver.resolve(NameReference("zoo", 2))
    ensembles.cancel(refit.fit_id)
    clock.now_s += 1
    assert (await resolver.resolve(NameReference("zoo", None))).digest == first
    with pytest.raises(NothingToServeError, match="zoo@2 is cancelled"):
        await resolver.resolve(NameReference("zoo", 2))


async def test_what_is_unknown_is_not_remembered(resolver: Resolver, publish: Publish) -> None:
    for version in (None, 1):
        with pytest.raises(FitNotFoundError):
            await resolver.resolve(NameReference("zoo", version))
    publish("zoo")
    assert (await resolver.resolve(NameReference("zoo", None))).version == 1
    assert (await resolver.resolve(NameReference("zoo", 1))).version == 1


async def test_callers_at_once_share_one_look_and_may_go_away(
    resolver: Resolver, publish: Publish, ensembles: EnsembleStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish("zoo")
    looks: list[str] = []
    current = ensembles.current

    def counted(name: str, *, known: FitId | None = None) -> FitId:
        looks.append(name)
        return current(name, known=known)

    monkeypatch.setattr(ensembles, "current", counted)
    calls = [asyncio.create_task(resolver.resolve(NameReference("zoo", None))) for _ in range(6)]
    await asyncio.sleep(0)
    calls[0].cancel()
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(outcomes[0], asyncio.CancelledError)
    assert {getattr(outcome, "version", None) for outcome in outcomes[1:]} == {1}
    assert looks == ["zoo"]


async def test_names_that_are_asked_for_at_once_are_looked_up_together(
    resolver: Resolver,
    clock: Clock,
    publish: Publish,
    ensembles: EnsembleStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = [NameReference(f"zoo-{i}", None) for i in range(3 * MAX_LOOKS)]
    published = {name: publish(name.name, seed=i)[1] for i, name in enumerate(names[:5])}
    looks, ways = list[str](), list[object]()
    current, to_thread = ensembles.current, asyncio.to_thread

    def counted(name: str, *, known: FitId | None = None) -> FitId:
        looks.append(name)
        return current(name, known=known)

    async def way(work: Callable[..., object], *args: object) -> object:
        ways.append(work)
        return await to_thread(work, *args)

    monkeypatch.setattr(ensembles, "current", counted)
    monkeypatch.setattr(asyncio, "to_thread", way)
    for _ in range(2):
        asked = (resolver.resolve(name) for name in names)
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert (sorted(looks), len(ways)) == (sorted(name.name for name in names), 3)
        for name, answer in zip(names, answers, strict=True):
            if name in published:
                assert answer == Served(name.name, 1, published[name])
            else:  # nothing is known of it, which says nothing of its neighbours
                assert isinstance(answer, FitNotFoundError)
                assert name.name in str(answer)
        looks.clear()
        ways.clear()
        clock.now_s += 1


async def test_a_look_that_hangs_holds_up_nobody_who_comes_later(
    resolver: Resolver, publish: Publish, ensembles: EnsembleStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish("zoo")
    current, hanging, go_on = ensembles.current, threading.Event(), threading.Event()

    def slow(name: str, *, known: FitId | None = None) -> FitId:
        if name == "far":
            hanging.set()
            assert go_on.wait(30)
        return current(name, known=known)

    monkeypatch.setattr(ensembles, "current", slow)
    far = asyncio.create_task(resolver.resolve(NameReference("far", None)))
    assert await asyncio.to_thread(hanging.wait, 30)
    async with asyncio.timeout(30):
        assert (await resolver.resolve(NameReference("zoo", None))).version == 1
    assert not far.done()
    go_on.set()
    with pytest.raises(FitNotFoundError):
        await far


async def test_whoever_asks_while_no_thread_can_be_started_is_told_and_may_ask_again(
    resolver: Resolver, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish("zoo")
    zoo = NameReference("zoo", None)

    async def refused(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as without:
        without.setattr(asyncio, "to_thread", refused)
        with pytest.raises(RuntimeError, match="new thread"):
            await asyncio.wait_for(resolver.resolve(zoo), 30)
    assert (await resolver.resolve(zoo)).version == 1


async def test_while_the_store_is_down_the_last_answer_stands(
    resolver: Resolver, clock: Clock, publish: Publish, objects: ObjectStore
) -> None:
    _, digest = publish("zoo")
    await resolver.resolve(NameReference("zoo", None))
    break_store(objects)
    clock.now_s += 3600
    assert (await resolver.resolve(NameReference("zoo", None))).digest == digest


async def test_a_store_that_fails_at_once_is_asked_once_a_ttl_and_complained_of_as_often(
    resolver: Resolver,
    clock: Clock,
    publish: Publish,
    objects: ObjectStore,
    caplog: pytest.LogCaptureFixture,
) -> None:
    publish("zoo")
    zoo = NameReference("zoo", None)
    await resolver.resolve(zoo)
    break_store(objects)
    clock.now_s += 3600
    for _ in range(5):
        await resolver.resolve(zoo)
    assert caplog.text.count("serving the last known version") == 1
    (record,) = caplog.records
    assert record.exc_info is None
    assert "the last known version: cannot" in record.getMessage()
    clock.now_s += 1
    await resolver.resolve(zoo)
    assert caplog.text.count("serving the last known version") == 2


def point(ensembles: EnsembleStore, alias: str, **weights: float) -> None:
    shares = [Share(version=int(v[1:]), weight=w) for v, w in weights.items()]
    ensembles.aliases.move("zoo", alias, Split.of(shares), lambda _: True)


PROD = AliasReference("zoo", "prod")


async def test_a_move_of_an_alias_shows_within_the_ttl(
    resolver: Resolver, clock: Clock, publish: Publish, ensembles: EnsembleStore
) -> None:
    _, first = publish("zoo", seed=1)
    _, second = publish("zoo", seed=2)
    point(ensembles, "prod", v1=1.0)
    assert await resolver.resolve(PROD) == Served("zoo", 1, first)
    point(ensembles, "prod", v2=1.0)
    clock.now_s += 0.2
    assert await resolver.resolve(PROD) == Served("zoo", 1, first)
    clock.now_s += 0.1
    assert await resolver.resolve(PROD) == Served("zoo", 2, second)
    point(ensembles, "prod", v1=1.0)
    resolver.forget("zoo", "prod")
    assert await resolver.resolve(PROD) == Served("zoo", 1, first)


async def test_a_look_that_began_before_a_move_is_not_remembered_after_forget(
    resolver: Resolver, publish: Publish, ensembles: EnsembleStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, first = publish("zoo", seed=1)
    _, second = publish("zoo", seed=2)
    point(ensembles, "prod", v1=1.0)
    reading, go_on = threading.Event(), threading.Event()
    current = ensembles.aliases.current

    def slow(name: str, alias: str, *, known: Move | None = None) -> Move:
        found = current(name, alias, known=known)
        reading.set()
        assert go_on.wait(30)
        return found

    monkeypatch.setattr(ensembles.aliases, "current", slow)
    early = asyncio.create_task(resolver.resolve(PROD))
    assert await asyncio.to_thread(reading.wait, 30)
    point(ensembles, "prod", v2=1.0)
    resolver.forget("zoo", "prod")
    go_on.set()
    assert (await early).digest == first  # it came before the move, and may have what was then
    assert (await resolver.resolve(PROD)).digest == second


async def test_an_unmoved_alias_costs_one_look_and_one_for_its_version_however_often_it_moved(
    resolver: Resolver,
    clock: Clock,
    publish: Publish,
    ensembles: EnsembleStore,
    objects: ObjectStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    publish("zoo", seed=1)
    publish("zoo", seed=2)
    for _ in range(20):
        point(ensembles, "prod", v1=1.0)
        point(ensembles, "prod", v2=1.0)
    await resolver.resolve(PROD)
    calls = looks_into(objects, ensembles, monkeypatch)
    clock.now_s += 1
    assert (await resolver.resolve(PROD)).version == 2
    assert calls == [
        "ensembles/zoo/aliases/prod/00000041.json",
        "ensembles/zoo/versions/00000003/request.json",  # where a deletion would be
    ]


async def test_a_name_costs_one_look_while_nothing_is_fitted_however_many_versions_it_has(
    resolver: Resolver,
    clock: Clock,
    publish: Publish,
    ensembles: EnsembleStore,
    objects: ObjectStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for seed in range(5):
        publish("zoo", seed=seed)
    zoo = NameReference("zoo", None)
    before = await resolver.resolve(zoo)
    calls = looks_into(objects, ensembles, monkeypatch)
    clock.now_s += 1
    assert await resolver.resolve(zoo) == before
    assert calls == ["ensembles/zoo/versions/00000006/request.json"]


async def test_a_success_shows_behind_and_before_versions_that_did_not_succeed(
    resolver: Resolver,
    *,
    clock: Clock,
    publish: Publish,
    ensembles: EnsembleStore,
    objects: ObjectStore,
    make_spec: Callable[..., object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    publish("zoo", seed=1)
    zoo = NameReference("zoo", None)
    assert (await resolver.resolve(zoo)).version == 1
    ensembles.cancel(ensembles.create(make_spec("zoo")).fit_id)
    running = ensembles.create(make_spec("zoo"))
    clock.now_s += 1
    assert (await resolver.resolve(zoo)).version == 1
    _, fourth = publish("zoo", seed=4)
    clock.now_s += 1
    assert await resolver.resolve(zoo) == Served("zoo", 4, fourth)
    ensembles.cancel(running.fit_id)
    ensembles.create(make_spec("zoo"))
    calls = looks_into(objects, ensembles, monkeypatch)
    clock.now_s += 1
    assert (await resolver.resolve(zoo)).version == 4
    fifth, sixth = (f"ensembles/zoo/versions/0000000{n}" for n in (5, 6))
    looks = [f"{fifth}/request.json", f"{sixth}/request.json", f"{fifth}/outcome.json"]
    assert calls == [*looks[:2], looks[0], looks[2]]  # the fifth's request says what was deleted
    calls.clear()
    clock.now_s += 1
    assert (await resolver.resolve(zoo)).version == 4
    assert calls == looks


async def test_an_answer_is_trusted_from_when_it_was_asked_for(
    resolver: Resolver,
    clock: Clock,
    publish: Publish,
    ensembles: EnsembleStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A version may have succeeded just after a slow store has looked."""
    publish("zoo", seed=1)
    current = ensembles.current

    def slow(name: str, *, known: FitId | None = None) -> FitId:
        found = current(name, known=known)
        clock.now_s += 0.2
        return found

    with monkeypatch.context() as slowly:
        slowly.setattr(ensembles, "current", slow)
        assert (await resolver.resolve(NameReference("zoo", None))).version == 1
    publish("zoo", seed=2)
    clock.now_s += 0.1
    assert (await resolver.resolve(NameReference("zoo", None))).version == 2


async def test_a_key_says_nothing_of_the_version_that_another_alias_gives_it(
    resolver: Resolver, publish: Publish, ensembles: EnsembleStore
) -> None:
    publish("zoo", seed=1)
    publish("zoo", seed=2)
    versions: list[list[int]] = []
    for alias in ("prod", "trial"):
        point(ensembles, alias, v1=0.5, v2=0.5)
        reference = AliasReference("zoo", alias)
        versions.append([(await resolver.resolve(reference, str(n))).version for n in range(400)])
    alike = sum(one == other for one, other in zip(*versions, strict=True))
    assert 150 < alike < 250


async def test_a_split_alias_is_drawn_for_each_request_or_kept_by_key(
    publish: Publish, ensembles: EnsembleStore
) -> None:
    publish("zoo", seed=1)
    publish("zoo", seed=2)
    point(ensembles, "prod", v1=0.75, v2=0.25)
    resolver = Resolver(ensembles, ttl_s=60, rng=random.Random(5))  # noqa: S311
    drawn = [(await resolver.resolve(PROD)).version for _ in range(2000)]
    assert drawn.count(2) / 2000 == pytest.approx(0.25, abs=0.05)
    assert len({tuple(drawn[i : i + 20]) for i in range(0, 2000, 20)}) > 90  # no fixed pattern
    of_key = {k: (await resolver.resolve(PROD, k)).version for k in map(str, range(2000))}
    assert list(of_key.values()).count(2) / 2000 == pytest.approx(0.25, abs=0.05)
    other = Resolver(ensembles, ttl_s=60, rng=random.Random(6))  # noqa: S311
    for key, version in of_key.items():  # also in another process
        assert (await other.resolve(PROD, key)).version == version


async def test_an_alias_that_is_deleted_is_not_found_and_stays_so_without_the_store(
    resolver: Resolver,
    clock: Clock,
    publish: Publish,
    ensembles: EnsembleStore,
    objects: ObjectStore,
) -> None:
    publish("zoo")
    with pytest.raises(NotFoundError, match="zoo in ensembles has no alias prod"):
        await resolver.resolve(PROD)
    point(ensembles, "prod", v1=1.0)
    assert (await resolver.resolve(PROD)).version == 1  # that it was absent was not remembered
    ensembles.aliases.delete("zoo", "prod", lambda _: True)
    clock.now_s += 1
    with pytest.raises(NotFoundError):
        await resolver.resolve(PROD)
    break_store(objects)
    with pytest.raises(StoreUnavailableError):
        await resolver.resolve(PROD)


REFERENCES = [NameReference("zoo", None), NameReference("zoo", 1), PROD]


@pytest.mark.parametrize("reference", REFERENCES, ids=str)
async def test_a_deletion_shows_within_the_ttl_and_stays_without_the_store(
    resolver: Resolver,
    clock: Clock,
    publish: Publish,
    ensembles: EnsembleStore,
    objects: ObjectStore,
    reference: Reference,
) -> None:
    publish("zoo")
    point(ensembles, "prod", v1=1.0)
    before = await resolver.resolve(reference)
    ensembles.delete("zoo")
    clock.now_s += 0.2
    assert await resolver.resolve(reference) == before
    clock.now_s += 0.1
    with pytest.raises((EnsembleDeletedError, NotFoundError)):
        await resolver.resolve(reference)
    break_store(objects)
    with pytest.raises(StoreUnavailableError):
        await resolver.resolve(reference)


@pytest.mark.parametrize("reference", REFERENCES, ids=str)
async def test_a_deletion_made_here_shows_at_once(
    resolver: Resolver, publish: Publish, ensembles: EnsembleStore, reference: Reference
) -> None:
    publish("zoo")
    point(ensembles, "prod", v1=1.0)
    await resolver.resolve(reference)
    ensembles.delete("zoo")
    resolver.forget_deleted("zoo")
    with pytest.raises((EnsembleDeletedError, NotFoundError)):
        await resolver.resolve(reference)


async def test_a_fit_after_a_deletion_serves_nothing_of_before(
    resolver: Resolver,
    clock: Clock,
    publish: Publish,
    ensembles: EnsembleStore,
    objects: ObjectStore,
    make_spec: Callable[..., object],
) -> None:
    publish("zoo", seed=1)
    zoo = NameReference("zoo", None)
    await resolver.resolve(zoo)
    ensembles.delete("zoo")
    third = ensembles.create(make_spec("zoo")).fit_id
    clock.now_s += 1
    with pytest.raises(NothingToServeError, match="zoo@3 is unfinished"):
        await resolver.resolve(zoo)
    ensembles.cancel(third)
    _, digest = publish("zoo", seed=2)
    assert await resolver.resolve(zoo) == Served("zoo", 4, digest)
    ensembles.delete("zoo")
    ensembles.create(make_spec("zoo"))
    clock.now_s += 1
    with pytest.raises(NothingToServeError):
        await resolver.resolve(zoo)
    break_store(objects)
    with pytest.raises(StoreUnavailableError):
        await resolver.resolve(zoo)


@pytest.mark.parametrize("how", ["broken", "not mounted"])
async def test_while_the_store_is_down_an_alias_stays_where_it_was(
    resolver: Resolver,
    clock: Clock,
    publish: Publish,
    ensembles: EnsembleStore,
    objects: ObjectStore,
    how: str,
) -> None:
    publish("zoo", seed=1)
    publish("zoo", seed=2)
    point(ensembles, "prod", v1=0.5, v2=0.5)
    before = {key: await resolver.resolve(PROD, key) for key in "abcdefgh"}
    assert {served.version for served in before.values()} == {1, 2}
    resolver.forget("zoo", "prod")  # somebody tried to move it
    away = break_store(objects)
    if how == "not mounted":
        objects._root.unlink()
        objects._root.mkdir()
    for _ in range(3):
        clock.now_s += 3600
        assert {key: await resolver.resolve(PROD, key) for key in "abcdefgh"} == before
    with pytest.raises((StoreUnavailableError, NotFoundError)):
        await resolver.resolve(AliasReference("zoo", "unknown"))
    if how == "broken":
        objects._root.unlink()
    else:
        objects._root.rmdir()
    away.rename(objects._root)
    point(ensembles, "prod", v2=1.0)
    clock.now_s += 1
    assert {(await resolver.resolve(PROD, key)).version for key in "abcdefgh"} == {2}


def looks_into(
    objects: ObjectStore, ensembles: EnsembleStore, monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    """Return the keys and folders that are looked at from now on."""
    calls: list[str] = []
    for method in ("size", "get", "list", "children"):
        real = getattr(objects, method)
        monkeypatch.setattr(
            objects, method, lambda *a, real=real: (calls.append(a[0]), real(*a))[1]
        )
    monkeypatch.setattr(ensembles.aliases, "_objects", objects)
    monkeypatch.setattr(ensembles, "_objects", objects)
    return calls


def break_store(objects: ObjectStore) -> Path:
    """Put a file in the place of the store's folder; return where the folder went."""
    root = objects._root
    away = root.with_name("away")
    root.rename(away)
    root.write_text("not a folder")
    return away
