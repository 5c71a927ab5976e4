"""Real child processes, small ones."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from service.processes.child import Child, ChildSpec, python_module
from service.processes.restarts import RestartPolicy
from service.processes.supervisor import GaveUpError, Supervisor

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.anyio
BEAT_S = 0.05
POLICY = RestartPolicy(max_failures=3, window_s=60, first_delay_s=0.05)

CHILD = """
import asyncio, signal, sys
from pathlib import Path
from service.processes.assignment import assignment
from service.processes.parent import die_with_parent
from service.processes.pulse import beating
told = assignment()
die_with_parent(told.parent_pid)
folder = Path(told.folder)
def note(what):
    with (folder / "notes").open("a") as file:
        file.write(f"{told.name} {what}\\n")
async def main():
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    well = lambda: not (folder / f"{told.name}.unwell").exists()
    async with beating(told.pulse_fd, told.beat_s, well):
        note("started")
        while not stop.is_set():
            await asyncio.sleep(0.02)
            if (folder / f"{told.name}.crash").exists():
                (folder / f"{told.name}.crash").unlink()
                sys.exit(3)
    note("ended")
import os, time
(folder / f"{told.name}.pid").write_text(str(os.getpid()))
if (folder / f"{told.name}.broken").exists():
    sys.exit(2)
asyncio.run(main())
if (folder / f"{told.name}.slow").exists():
    time.sleep(1)  # without a sign of life
"""


def spec(name: str, grace_s: float = 10.0) -> ChildSpec:
    return ChildSpec(name, (sys.executable, "-c", CHILD), grace_s)


async def output_of(spec: ChildSpec, folder: Path, capfd: pytest.CaptureFixture[str]) -> str:
    child = await Child.start(spec, str(folder), BEAT_S, asyncio.Event())
    assert await child.ended() == f"{spec.name} exited with 0"
    return capfd.readouterr().out


async def test_a_child_gets_its_variables_unless_they_are_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SET", "before")
    shown = "import os; print(os.environ['SET'], os.environ['NEW'], 'PATH' in os.environ)"
    variables = {"SET": "now", "NEW": "too"}
    child = ChildSpec("a", (sys.executable, "-c", shown), 1.0, environment=variables)
    assert await output_of(child, tmp_path, capfd) == "before too True\n"


async def test_a_module_in_the_working_folder_is_not_taken_for_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "this.py").write_text("print('of the working folder')")
    monkeypatch.chdir(tmp_path)
    told = await output_of(ChildSpec("a", python_module("this"), 1.0), tmp_path, capfd)
    assert told.startswith("The Zen of Python")


class Running:
    def __init__(self, folder: Path, *groups: Sequence[ChildSpec]) -> None:
        self.folder = folder
        self.is_ready = asyncio.Event()
        self.supervisor = Supervisor(groups, str(folder), beat_s=BEAT_S, policy=POLICY)
        self.task = asyncio.create_task(self.supervisor.run(self.is_ready.set))

    def notes(self) -> list[str]:
        return (self.folder / "notes").read_text().splitlines()

    def pid(self, name: str) -> int:
        return int((self.folder / f"{name}.pid").read_text())

    async def until(self, note: str, count: int) -> None:
        async with asyncio.timeout(60):
            while self.notes().count(note) < count:  # noqa: ASYNC110  another process notes it
                await asyncio.sleep(0.02)

    async def ready(self) -> None:
        async with asyncio.timeout(60):
            await self.is_ready.wait()

    async def stop(self) -> None:
        self.supervisor.stop()
        await asyncio.wait_for(self.task, 60)


async def test_groups_end_one_after_the_other(tmp_path: Path) -> None:
    running = Running(tmp_path, [spec("a"), spec("b")], [spec("last")])
    await running.ready()
    await running.stop()
    assert sorted(running.notes()[:3]) == ["a started", "b started", "last started"]
    assert sorted(running.notes()[3:5]) == ["a ended", "b ended"]
    assert running.notes()[5:] == ["last ended"]


async def test_a_child_that_dies_hangs_or_is_unwell_is_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    running = Running(tmp_path, [spec("a")], [spec("b"), spec("c"), spec("d")])
    await running.ready()
    os.kill(running.pid("a"), signal.SIGKILL)
    os.kill(running.pid("b"), signal.SIGSTOP)
    (tmp_path / "c.unwell").touch()
    await running.until("a started", 2)
    await running.until("b started", 2)
    async with asyncio.timeout(30):
        unwell = "c was killed by SIGKILL because it said that it cannot work"
        while unwell not in caplog.text:  # noqa: ASYNC110  a log has no event
            await asyncio.sleep(0.02)
    (tmp_path / "c.unwell").unlink()
    await running.until("c started", 2)
    assert "b was killed by SIGKILL because it gave no sign of life" in caplog.text
    assert running.notes().count("d started") == 1
    await running.stop()
    assert all(note in running.notes() for note in ("a ended", "b ended", "c ended", "d ended"))


async def test_one_that_fails_too_often_ends_all_of_them(tmp_path: Path) -> None:
    running = Running(tmp_path, [spec("good")], [spec("bad")])
    await running.ready()
    for count in range(1, 4):
        await running.until("bad started", count)
        (tmp_path / "bad.crash").touch()
    with pytest.raises(GaveUpError, match="bad exited with 3, too often"):
        await asyncio.wait_for(running.task, 60)
    assert running.notes()[-1] == "good ended"


async def test_one_that_cannot_start_at_all_is_not_tried_again(tmp_path: Path) -> None:
    (tmp_path / "bad.broken").touch()
    running = Running(tmp_path, [spec("good")], [spec("bad")])
    with pytest.raises(GaveUpError, match="bad exited with 2, at the start"):
        await asyncio.wait_for(running.task, 60)
    assert not running.is_ready.is_set()


async def test_one_that_cannot_be_started_for_a_moment_is_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The system may have no process or no memory left: the others go on."""
    program, away = tmp_path / "python", tmp_path / "away"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    program.chmod(0o755)
    running = Running(tmp_path, [ChildSpec("a", (str(program), "-c", CHILD), 10.0)], [spec("good")])
    await running.ready()
    program.rename(away)
    os.kill(running.pid("a"), signal.SIGKILL)
    async with asyncio.timeout(60):
        while "a could not be started" not in caplog.text:  # noqa: ASYNC110  a log has no event
            await asyncio.sleep(0.001)
    away.rename(program)
    await running.until("a started", 2)
    assert running.notes().count("good started") == 1
    await running.stop()
    assert running.notes()[-1] == "good ended"


async def test_the_end_of_one_may_take_its_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    (tmp_path / "a.slow").touch()
    running = Running(tmp_path, [spec("a")])
    await running.ready()
    await running.stop()
    assert "a exited with 0" in caplog.text


async def test_one_that_does_not_end_is_killed(tmp_path: Path) -> None:
    running = Running(tmp_path, [spec("a", grace_s=0.3)])
    await running.ready()
    os.kill(running.pid("a"), signal.SIGSTOP)
    started_s = time.monotonic()
    await running.stop()
    assert time.monotonic() - started_s < 10
    assert "a ended" not in running.notes()


def test_no_child_outlives_a_killed_supervisor(tmp_path: Path) -> None:
    program = f"""
import asyncio, sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_supervisor import Running, spec
async def main():
    running = Running(Path({str(tmp_path)!r}), [spec("a"), spec("b")])
    await running.ready()
    print("ready", flush=True)
    await running.task
asyncio.run(main())
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE
    ) as supervisor:
        assert supervisor.stdout is not None
        assert supervisor.stdout.readline() == b"ready\n"
        children = [int((tmp_path / f"{name}.pid").read_text()) for name in "ab"]
        os.kill(children[1], signal.SIGSTOP)
        supervisor.kill()
    deadline_s = time.monotonic() + 20
    for child in children:
        while Path(f"/proc/{child}").exists():
            state = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0]
            if state == "Z":
                break
            assert time.monotonic() < deadline_s
            time.sleep(0.02)


def test_a_child_is_not_started_by_hand() -> None:
    for argument in ("{}", ""):
        done = subprocess.run(
            [sys.executable, "-c", CHILD, argument],
            cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 1
        assert done.stderr == "this process is started by `python -m service`\n"
