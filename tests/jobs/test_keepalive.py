"""What keeps a fit alive, and what tells its worker that it is another's by now."""

import asyncio
from typing import Any, cast

import pytest

from jobs.context import FitContext
from jobs.ensembles import EnsembleStore
from jobs.errors import QueueUnavailableError
from jobs.keepalive import Reporter, kept_alive
from jobs.progress import ProgressBoard
from jobs.records import FitId, Progress
from jobs.settings import DeploymentSettings
from tests.jobs.conftest import MakeSpec, until


class Board:
    """Takes what it is told unless it is away.

    Args:
        is_newest: What it answers to a beat.
    """

    def __init__(self, *, is_newest: bool = True) -> None:
        self.away = False
        self.posted: list[Progress] = []
        self._is_newest = is_newest

    async def beat(self, *_: object) -> bool:
        self._check()
        return self._is_newest

    async def post(self, _: FitId, progress: Progress) -> bool:
        self._check()
        self.posted.append(progress)
        return True

    def _check(self) -> None:
        if self.away:
            raise QueueUnavailableError("away")


def report(stage: str, step: int) -> Progress:
    return Progress(status="running", attempt=1, stage=stage, step=step)


def test_what_was_reported_while_redis_was_away_is_sent_later_the_newest_of_each_stage() -> None:
    board = Board()
    reporter = Reporter(FitId("fashion", 1), 1, cast("ProgressBoard", board))

    async def scenario() -> None:
        board.away = True
        await reporter.send([report("images", 9), report("weights", 1)])
        await reporter.send([report("weights", 2)])
        board.away = False
        await reporter.send([report("composite", 3)])
        await reporter.send([])

    asyncio.run(scenario())
    sent = [(each.stage, each.step) for each in board.posted]
    assert sent == [("images", 9), ("weights", 2), ("composite", 3)]


@pytest.mark.parametrize("told_by", ["redis", "the store"])
def test_a_worker_is_told_that_it_was_overtaken_by_either(
    store: EnsembleStore, make_spec: MakeSpec, told_by: str
) -> None:
    request = store.create(make_spec("fashion"))
    context = FitContext(request, store.claim_attempt(request.fit_id, "slow"))
    board: Any = Board(is_newest=told_by != "redis")
    if told_by == "the store":
        store.claim_attempt(request.fit_id, "fast")

    async def scenario() -> None:
        async with kept_alive(context, board, store, DeploymentSettings()):
            await asyncio.to_thread(until, context.should_stop)

    asyncio.run(scenario())
    assert context.stop_reason == "overtaken"
