"""The locks agree with pyproject.toml: checked without a network."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

SOURCE = re.compile(r"hgprompt \(pyproject\.toml(?::(?P<group>\w+))?\)")


@dataclass(frozen=True)
class Locked:
    requirement: Requirement
    hashes: int
    wanted_by: frozenset[str]  # "" is the project itself, otherwise a dependency group


def read_lock(path: Path) -> dict[str, list[Locked]]:
    """Return the entries by name; a name has several where they differ by environment."""
    entries: dict[str, list[Locked]] = {}
    for block in re.split(r"\n(?=\S)", path.read_text()):
        if block.startswith("#"):
            continue
        requirement = Requirement(block.partition("\\\n")[0].strip())
        wanted_by = frozenset(match["group"] or "" for match in SOURCE.finditer(block))
        entry = Locked(requirement, block.count("--hash=sha256:"), wanted_by)
        entries.setdefault(requirement.name, []).append(entry)
    return entries


def wanted(pyproject: dict[str, Any], group: str) -> list[Requirement]:
    """Return what is asked for: the dependencies of the project and its extra, or of a group."""
    project = pyproject["project"]
    lines = (
        pyproject["dependency-groups"][group]
        if group
        else [*project["dependencies"], *project["optional-dependencies"]["otel"]]
    )
    return [Requirement(line) for line in lines]


@pytest.fixture(scope="module")
def locks(root: Path) -> dict[str, dict[str, list[Locked]]]:
    return {path.stem: read_lock(path) for path in (root / "requirements").glob("*.txt")}


GROUPS = [
    ("runtime", {""}),
    ("dev", {"", "dev"}),
    ("bootstrap", {"bootstrap"}),
    ("kserve", {"kserve"}),
    ("peers", {"peers"}),
]


@pytest.mark.parametrize(("name", "groups"), GROUPS)
def test_a_lock_holds_what_is_asked_for(
    locks: Any, pyproject: dict[str, Any], name: str, groups: set[str]
) -> None:
    for requirement in (r for group in groups for r in wanted(pyproject, group)):
        entries = locks[name].get(requirement.name, [])
        assert entries, f"{requirement} is not in requirements/{name}.txt: run `make lock`"
        for entry in entries:
            (pin,) = entry.requirement.specifier
            assert requirement.specifier.contains(pin.version), f"{requirement}: run `make lock`"
            assert requirement.extras <= entry.requirement.extras, f"{requirement}: run `make lock`"


@pytest.mark.parametrize(("name", "groups"), GROUPS)
def test_a_lock_holds_nothing_that_is_no_longer_asked_for(
    locks: Any, pyproject: dict[str, Any], name: str, groups: set[str]
) -> None:
    for group in groups:
        asked_for = {requirement.name for requirement in wanted(pyproject, group)}
        locked = {n for n, es in locks[name].items() if any(group in e.wanted_by for e in es)}
        assert locked == asked_for, "run `make lock`"


def test_every_entry_is_one_version_with_hashes(locks: Any) -> None:
    for entries in (entries for lock in locks.values() for entries in lock.values()):
        for entry in entries:
            assert [pin.operator for pin in entry.requirement.specifier] == ["=="]
            assert entry.requirement.url is None
            assert entry.hashes > 0, entry.requirement


def test_development_runs_what_is_deployed(locks: Any) -> None:
    # Without markers: a package that is deployed on Windows only may be developed with anywhere.
    def pins(lock: str) -> set[tuple[str, str]]:
        requirements = [e.requirement for entries in locks[lock].values() for e in entries]
        return {(each.name, str(each.specifier)) for each in requirements}

    assert pins("runtime") <= pins("dev")


def test_locks_name_no_host(root: Path) -> None:
    for path in (root / "requirements").iterdir():
        text = path.read_text()
        assert "://" not in text
        assert "--index-url" not in text
        assert "--find-links" not in text
