import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from client.child import ChildLog, ChildSpec
from client.errors import StartError, StopRequestedError
from client.hooks import Hooks
from client.supervisor import RestartPolicy, Supervisor

Command = tuple[str, ...]
MakeScript = Callable[[str, str], Command]
Eventually = Callable[[Callable[[], bool], str], None]
IsRunning = Callable[[int], bool]

SLEEPER = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
STUBBORN = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(os.getpid(), flush=True)
time.sleep(600)
"""
PARENT = f"""
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", {SLEEPER!r}], stdout=subprocess.PIPE)
print(child.pid, flush=True)
time.sleep(600)
"""


class News:
    """Collects what a supervisor says."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.notes: list[str] = []
        self.stop_requests = 0

    @property
    def hooks(self) -> Hooks:
        return Hooks(
            stage=self.notes.append,
            note=self.notes.append,
            line=lambda name, line: self.lines.append(f"{name}: {line}"),
            stop_requests=lambda: self.stop_requests,
        )


@pytest.fixture
def news() -> News:
    return News()


@pytest.fixture
def supervisor(tmp_path: Path, news: News) -> Iterator[Supervisor]:
    policy = RestartPolicy(max_quick_deaths=3, first_delay_s=0.05)
    (tmp_path / "logs").mkdir()
    with Supervisor(tmp_path / "logs", news.hooks, policy=policy) as supervisor:
        yield supervisor


def spec(name: str, command: Command, *, grace_s: float = 20.0, last: bool = False) -> ChildSpec:
    return ChildSpec(name, command, dict(os.environ), grace_s=grace_s, ends_last=last)


def said_pid(news: News, name: str) -> int | None:
    pids = [line for line in news.lines if line.startswith(f"{name}: ")]
    return int(pids[-1].partition(": ")[2]) if pids else None


def test_output_goes_to_the_hooks_and_to_a_log(
    supervisor: Supervisor, news: News, script: MakeScript, eventually: Eventually, tmp_path: Path
) -> None:
    command = script("chatty", "import sys; print('out'); sys.stderr.write('err\\n')")
    supervisor.start(spec("chatty", command))
    eventually(lambda: len(news.lines) == 2, "two lines")
    assert sorted(news.lines) == ["chatty: err", "chatty: out"]
    supervisor.stop()
    log = (tmp_path / "logs" / "chatty.log").read_text()
    assert sorted(log.splitlines()) == ["err", "out"]


def test_the_log_of_the_run_before_is_kept(
    script: MakeScript, news: News, eventually: Eventually, tmp_path: Path
) -> None:
    for word in ("first", "second"):
        with Supervisor(tmp_path, news.hooks, policy=RestartPolicy()) as supervisor:
            supervisor.start(spec("run", script("run", f"print('{word}')")))
            eventually(lambda word=word: f"run: {word}" in news.lines, word)
    assert (tmp_path / "run.log").read_text() == "second\n"
    assert (tmp_path / "run.log.1").read_text() == "first\n"


def test_a_log_that_cannot_be_written_is_told_of_once_and_written_again_later(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said: list[str] = []
    path = tmp_path / "chatty.log"
    log = ChildLog("chatty", path, lambda name, line: said.append(f"{name}: {line}"))
    path.unlink()
    path.symlink_to("/dev/full")
    log.follow(io.BytesIO(b"one\ntwo\n"))
    trouble = f"chatty: {path} cannot be written: No space left on device"
    assert said == [trouble, "chatty: one", "chatty: two"]
    log.close()
    path.unlink()
    log.follow(io.BytesIO(b"three\n"))
    log.close()
    assert path.read_text() == "three\n"
    path.unlink()
    path.symlink_to("/dev/full")
    log.follow(io.BytesIO(b"four\n"))
    log.close()
    assert said[3:] == ["chatty: three", trouble, "chatty: four"]
    assert capsys.readouterr() == ("", "")


def test_a_child_that_dies_is_started_again(
    supervisor: Supervisor, news: News, script: MakeScript, eventually: Eventually
) -> None:
    supervisor.start(spec("sleeper", script("sleeper", SLEEPER)))
    eventually(lambda: said_pid(news, "sleeper") is not None, "its start")
    first = said_pid(news, "sleeper")
    assert first is not None
    os.kill(first, signal.SIGKILL)

    def restarted() -> bool:
        supervisor.check()
        return said_pid(news, "sleeper") != first

    eventually(restarted, "its restart")
    assert news.notes == ["sleeper was killed by SIGKILL; restarting it in 0.05 s"]


def test_a_child_that_keeps_dying_is_given_up(
    supervisor: Supervisor, news: News, script: MakeScript, eventually: Eventually
) -> None:
    supervisor.start(spec("broken", script("broken", "raise SystemExit('no luck')")))

    def given_up() -> bool:
        try:
            supervisor.check()
        except StartError as exc:
            assert "exit status 1 (no luck); its log: " in str(exc)  # noqa: PT017
            return True
        return False

    eventually(given_up, "giving up")
    assert len(news.notes) == 2


def test_waiting_ends_when_the_child_does(supervisor: Supervisor, script: MakeScript) -> None:
    supervisor.start(spec("broken", script("broken", "raise SystemExit('no luck')")))
    with pytest.raises(StartError, match=r"exit status 1 \(no luck\); its log: .*broken.log"):
        supervisor.wait_until("broken", lambda: False, 20.0, "answer")


def test_waiting_has_a_limit(supervisor: Supervisor, script: MakeScript) -> None:
    supervisor.start(spec("sleeper", script("sleeper", SLEEPER)))
    with pytest.raises(StartError, match=r"sleeper did not answer within 0.2 s"):
        supervisor.wait_until("sleeper", lambda: False, 0.2, "answer")


def test_waiting_ends_when_the_user_wants_to_stop(
    supervisor: Supervisor, news: News, script: MakeScript
) -> None:
    supervisor.start(spec("sleeper", script("sleeper", SLEEPER)))
    news.stop_requests = 1
    with pytest.raises(StopRequestedError):
        supervisor.wait_until("sleeper", lambda: False, 20.0, "answer")


def test_a_command_that_does_not_exist_is_a_start_error(supervisor: Supervisor) -> None:
    with pytest.raises(StartError, match="cannot run /nowhere/at/all: No such file"):
        supervisor.start(spec("none", ("/nowhere/at/all",)))


def test_what_others_need_ends_last(
    supervisor: Supervisor, news: News, script: MakeScript, eventually: Eventually
) -> None:
    source = """
import signal, sys, time
def end(*_):
    time.sleep(0.2)
    print("ends", flush=True)
    sys.exit()
signal.signal(signal.SIGTERM, end)
print("up", flush=True)
signal.pause()
"""
    supervisor.start(spec("needed", script("needed", source), last=True))
    supervisor.start(spec("needy", script("needy", source)))
    eventually(lambda: len(news.lines) == 2, "both are up")
    supervisor.stop()
    assert news.lines[2:] == ["needy: ends", "needed: ends"]


def test_a_child_that_ignores_sigterm_is_killed_after_its_grace(
    supervisor: Supervisor, news: News, script: MakeScript, eventually: Eventually
) -> None:
    supervisor.start(spec("stubborn", script("stubborn", STUBBORN), grace_s=0.3))
    eventually(lambda: bool(news.lines), "its start")
    begun_s = time.monotonic()
    supervisor.stop()
    assert 0.3 <= time.monotonic() - begun_s < 5.0


def test_a_second_stop_request_does_not_wait(
    supervisor: Supervisor, news: News, script: MakeScript, eventually: Eventually
) -> None:
    supervisor.start(spec("stubborn", script("stubborn", STUBBORN)))
    eventually(lambda: bool(news.lines), "its start")
    news.stop_requests = 2
    begun_s = time.monotonic()
    supervisor.stop()
    assert time.monotonic() - begun_s < 5.0


def test_grandchildren_do_not_outlive_it(
    supervisor: Supervisor,
    news: News,
    script: MakeScript,
    eventually: Eventually,
    is_running: IsRunning,
) -> None:
    supervisor.start(spec("parent", script("parent", PARENT)))
    eventually(lambda: said_pid(news, "parent") is not None, "its child's start")
    grandchild = said_pid(news, "parent")
    assert grandchild is not None
    assert is_running(grandchild)
    supervisor.stop()
    eventually(lambda: not is_running(grandchild), "the grandchild's end")


VANISHING = """
import json, os, sys
from pathlib import Path
from client.child import ChildLog, ChildSpec
from client.hooks import Hooks
from client.supervisor import RestartPolicy, Supervisor
folder, commands = Path(sys.argv[1]), json.loads(sys.argv[2])
ignore = lambda *_: None
say = lambda name, line: print(name, line, flush=True)
hooks = Hooks(ignore, ignore, say, lambda: 0)
with Supervisor(folder, hooks, policy=RestartPolicy()) as supervisor:
    for name, argv in commands.items():
        supervisor.start(ChildSpec(name, tuple(argv), dict(os.environ)))
    while True:
        supervisor.wait_until(name, lambda: False, 600, "end")
"""


def test_nothing_is_left_when_the_supervisor_is_killed(
    script: MakeScript, eventually: Eventually, is_running: IsRunning, tmp_path: Path
) -> None:
    commands = {"sleeper": script("sleeper", SLEEPER), "parent": script("parent", PARENT)}
    with subprocess.Popen(
        [sys.executable, "-c", VANISHING, str(tmp_path), json.dumps(commands)],
        stdout=subprocess.PIPE,
        text=True,
    ) as supervisor:
        assert supervisor.stdout is not None
        pids = [int(supervisor.stdout.readline().split()[1]) for _ in commands]
        assert all(map(is_running, pids))
        supervisor.kill()
    eventually(lambda: not any(map(is_running, pids)), "the end of child and grandchild")


def test_what_ignores_sigterm_is_killed_when_the_supervisor_vanishes(
    script: MakeScript, is_running: IsRunning
) -> None:
    guardian = Path(__file__).parents[2] / "client" / "guardian.py"
    with subprocess.Popen(
        [sys.executable, str(guardian), "0.3"], stdin=subprocess.PIPE, process_group=0
    ) as leader:
        stubborn = subprocess.Popen(
            script("stubborn", STUBBORN), stdout=subprocess.PIPE, process_group=leader.pid
        )
        with stubborn:
            assert stubborn.stdout is not None
            pid = int(stubborn.stdout.readline())
            assert leader.stdin is not None
            leader.stdin.close()
            assert stubborn.wait(10.0) == -signal.SIGKILL
    assert not is_running(pid)


def test_a_guardian_that_was_killed_is_replaced(
    supervisor: Supervisor, news: News, script: MakeScript, eventually: Eventually
) -> None:
    supervisor.start(spec("sleeper", script("sleeper", SLEEPER)))
    eventually(lambda: bool(news.lines), "its start")
    sleeper = said_pid(news, "sleeper")
    assert sleeper is not None
    group = os.getpgid(sleeper)
    os.kill(group, signal.SIGKILL)

    def replaced() -> bool:
        supervisor.check()
        return any(is_guardian_of(group, path) for path in Path("/proc").glob("[0-9]*"))

    eventually(replaced, "a new guardian of the same group")
    assert said_pid(news, "sleeper") == sleeper


def is_guardian_of(group: int, process: Path) -> bool:
    try:
        return (
            os.getpgid(int(process.name)) == group
            and b"guardian.py" in (process / "cmdline").read_bytes()
        )
    except (ProcessLookupError, FileNotFoundError):
        return False
