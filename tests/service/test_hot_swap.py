"""An alias that is moved all the time, under load, in a real process."""

import asyncio
import itertools
import json
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from jobs.ensembles import EnsembleStore
from jobs.records import FitId
from prompt_store.splits import Share, Split
from tests.faults.server import Server

pytestmark = pytest.mark.anyio

NUM_IMAGES = 8
NUM_TASKS = 12
LOAD_S = 5.0
SWAP_EVERY_S = 0.01
MIN_MOVES = 50  # of some 500 on an idle machine
ONE_ARTIFACT_BYTES = 12_000  # room for one of them, not for two
URL = "/v1/ensembles/zoo"


class Load:
    """Requests by many tasks, each checked against what the version it reports must answer."""

    def __init__(self, client: httpx.AsyncClient, images: list[bytes]) -> None:
        self._client = client
        self._images = images
        self._expected: dict[tuple[str, int], list[Any]] = {}
        self.seen: Counter[int] = Counter()

    async def learn(self, version: int, digest: str) -> None:
        """Ask a version itself for its answers, before anything moves."""
        for i, image in enumerate(self._images):
            answer = await self._client.post(f"{URL}@{version}/classify", content=image)
            assert answer.json()["ensemble"]["digest"] == digest
            self._expected[digest, i] = answer.json()["predictions"][0]

    async def swap(self, until_s: float, targets: list[Split]) -> None:
        """Move the alias over HTTP by compare-and-swap, as fast as that goes under load."""
        tag = (await self._client.get(f"{URL}/aliases/prod")).headers["etag"]
        for target in itertools.cycle(targets):
            if time.monotonic() > until_s:
                return
            moved = await self._client.put(
                f"{URL}/aliases/prod",
                json={"versions": target.model_dump()["shares"]},
                headers={"If-Match": tag},
            )
            assert moved.status_code in (200, 412), moved.text  # 412: the other one was faster
            tag = moved.headers["etag"]

    async def classify(self, until_s: float, number: int) -> None:
        """Ask the alias, in turns for one image and for several at once."""
        while time.monotonic() < until_s:
            number += 1
            rows = [number % NUM_IMAGES] if number % 3 == 0 else range(NUM_IMAGES)
            files = [("images", ("x", self._images[i])) for i in rows]
            answer = await self._client.post(f"{URL}@prod/classify", files=files)
            assert answer.status_code == 200, answer.text
            served = answer.json()["ensemble"]
            assert answer.json()["predictions"] == [
                self._expected[served["digest"], i] for i in rows
            ]
            self.seen[served["version"]] += 1


def swap_in_the_store(ensembles: EnsembleStore, until_s: float, targets: list[Split]) -> None:
    """Move the alias every 10 ms, as another process of the deployment would."""
    for target in itertools.cycle(targets):
        if time.monotonic() > until_s:
            return
        ensembles.aliases.move("zoo", "prod", target, lambda _: True)
        time.sleep(SWAP_EVERY_S)


def between(**weights: float) -> Split:
    return Split.of([Share(version=int(v[1:]), weight=w) for v, w in weights.items()])


@pytest.mark.parametrize(
    ("settings", "split"),
    [
        ({"resolve_ttl_s": 0.0}, False),
        (
            {
                "resolve_ttl_s": 0.0,
                "resident_device_bytes": ONE_ARTIFACT_BYTES,
                "max_batch_size": 1,
            },
            False,
        ),
        (
            {
                "resolve_ttl_s": 0.01,
                "resident_device_bytes": ONE_ARTIFACT_BYTES,
                "max_batch_size": 2,
            },
            True,
        ),
    ],
    ids=["roomy", "one slot", "one slot, split"],
)
async def test_every_answer_is_that_of_the_artifact_whose_digest_it_reports(
    serve: Callable[..., Server],
    publish: Callable[..., tuple[FitId, str]],
    ensembles: EnsembleStore,
    image: Callable[..., bytes],
    settings: dict[str, object],
    split: bool,
) -> None:
    digests = [publish("zoo", seed=seed)[1] for seed in range(3)]
    # In fp32 an answer does not depend on the batch it was in: equal to the last bit.
    server = serve(serving_precision="fp32", **settings)
    url = await asyncio.to_thread(server.wait_until_ready)
    limits = httpx.Limits(max_connections=NUM_TASKS + 1)
    async with httpx.AsyncClient(base_url=url, timeout=60, limits=limits) as client:
        load = Load(client, [image(seed) for seed in range(NUM_IMAGES)])
        for version, digest in enumerate(digests, 1):
            await load.learn(version, digest)
        answers = {json.dumps(load._expected[digest, 0]) for digest in digests}
        assert len(answers) == len(digests)  # a wrong artifact would show

        targets = [Split.only(2), Split.only(3), Split.only(1)]
        if split:
            targets = [between(v1=0.5, v2=0.5), between(v2=0.3, v3=0.7), between(v3=0.9, v1=0.1)]
        ensembles.aliases.move("zoo", "prod", targets[-1], lambda now: now is None)
        until_s = time.monotonic() + LOAD_S
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.to_thread(swap_in_the_store, ensembles, until_s, targets))
            group.create_task(load.swap(until_s, targets[::-1]))
            for number in range(NUM_TASKS):
                group.create_task(load.classify(until_s, number))
        assert set(load.seen) == {1, 2, 3}
        assert ensembles.aliases.current("zoo", "prod").number > MIN_MOVES
        metrics = (await client.get("/metrics")).text
    assert "hgprompt_batch_failures_total 0.0" in metrics
    if "resident_device_bytes" in settings:
        assert "hgprompt_resident_artifacts 1.0" in metrics
    problems = [line for line in server.log.splitlines() if '"ERROR"' in line]
    assert problems == []


async def test_every_acknowledged_move_outlives_a_server_that_is_killed(
    serve: Callable[..., Server],
    publish: Callable[..., tuple[FitId, str]],
    ensembles: EnsembleStore,
) -> None:
    for seed in range(2):
        publish("zoo", seed=seed)
    server = serve()
    url = await asyncio.to_thread(server.wait_until_ready)
    acknowledged: dict[str, int] = {}

    async def swap(client: httpx.AsyncClient, alias: str) -> None:
        """Move an alias to and fro until the server is gone."""
        headers = {"If-None-Match": "*"}
        for version in itertools.cycle((1, 2)):
            try:
                moved = await client.put(
                    f"{URL}/aliases/{alias}", json={"version": version}, headers=headers
                )
            except httpx.TransportError:
                return
            assert moved.is_success, moved.text
            acknowledged[alias] = max(moved.json()["move"], acknowledged.get(alias, 0))
            headers = {"If-Match": moved.headers["etag"]}

    aliases = [f"a{i}" for i in range(4)]
    async with httpx.AsyncClient(base_url=url, timeout=60) as client, asyncio.TaskGroup() as group:
        for alias in aliases:
            group.create_task(swap(client, alias))
        await asyncio.sleep(2)
        server.process.kill()
    assert set(acknowledged) == set(aliases)
    for alias in aliases:
        last = ensembles.aliases.current("zoo", alias)
        assert last.number - acknowledged[alias] in (0, 1)  # the one on its way may be made
        moves = ensembles.aliases.history("zoo", alias, None, last.number).items
        assert [move.number for move in moves] == list(range(last.number, 0, -1))
        assert [move.split for move in reversed(moves)] == [
            Split.only(1 + i % 2) for i in range(last.number)
        ]
