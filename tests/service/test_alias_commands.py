"""`hgprompt aliases` against a real service."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from client.api import Client
from client.errors import AliasMovedError
from jobs.records import FitId
from tests.faults.server import Server
from tests.service_process import ROOT


@pytest.fixture
def url(tmp_path: Path, store_url: str, redis_url: str) -> Iterator[str]:
    server = Server(tmp_path, store_url, redis_url)
    try:
        yield server.wait_until_ready()
    finally:
        server.close()


def test_a_rollout_and_a_rollback(
    url: str,
    publish: Callable[..., tuple[FitId, str]],
    image: Callable[..., bytes],
    make_prompt: Callable[..., bytes],
) -> None:
    digests = [publish("zoo", seed=seed)[1] for seed in range(2)]

    def hgprompt(*args: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "client", *args],
            cwd=ROOT,
            env={**os.environ, "HGPROMPT_URL": url},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, (done.stdout or done.stderr).strip()

    assert hgprompt("aliases", "set", "zoo", "prod", "1") == (0, "zoo@prod  1  move 1")
    split = ["1=0.75", "2=0.25"]
    done = hgprompt("aliases", "set", "zoo", "prod", *split, "--if-match", "1")
    assert done == (0, "zoo@prod  1=0.75 2=0.25  move 2")
    status, said = hgprompt("aliases", "set", "zoo", "prod", "2", "--if-match", "1")
    assert (status, "alias prod of zoo in ensembles is at move 2" in said) == (1, True)
    assert hgprompt("aliases", "set", "zoo", "prod", "3", "--if-match", "2")[0] == 1
    assert hgprompt("aliases", "set", "zoo", "prod", "2", "--if-match", "2")[0] == 0
    assert hgprompt("aliases", "set", "zoo", "prod", "1", "--if-match", "3")[0] == 0
    _, listed = hgprompt("aliases", "ls", "zoo")
    assert listed.splitlines()[1].split()[:3] == ["prod", "1", "4"]
    _, moves = hgprompt("aliases", "history", "zoo", "prod")
    assert [line.split()[0] for line in moves.splitlines()[1:]] == ["4", "3", "2", "1"]

    with Client(url) as client:
        aliases = client.ensemble_aliases
        answer = client.classify("zoo@prod", [image()])
        assert (answer.ensemble.version, answer.ensemble.digest) == (1, digests[0])
        assert aliases.set("zoo", "prod", {1: 0.5, 2: 0.5}, if_match=4).move == 5
        by_key = {
            key: client.classify("zoo@prod", [image()], assignment_key=key).ensemble.version
            for key in map(str, range(20))
        }
        assert set(by_key.values()) == {1, 2}
        for key, version in by_key.items():
            again = client.classify("zoo@prod", [image(), image(1)], assignment_key=key)
            assert again.ensemble.version == version
        with pytest.raises(AliasMovedError):
            aliases.delete("zoo", "prod", if_match=4)
        aliases.delete("zoo", "prod", if_match=5)
        assert list(aliases.list("zoo")) == []
        assert next(aliases.history("zoo", "prod")).versions == ()

        client.put_prompt("count", make_prompt())
        assert client.prompt_aliases.set("count", "prod", 1).version == 1
    assert hgprompt("aliases", "rm", "count", "prod", "--prompt", "--if-match", "1")[0] == 0
    assert hgprompt("aliases", "ls", "count", "--prompt")[1].startswith("no aliases yet")
