import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from packaging.specifiers import SpecifierSet


@pytest.fixture(scope="module")
def dockerfile(root: Path) -> str:
    """The instructions, continuation lines joined."""
    return (root / "docker" / "Dockerfile").read_text().replace("\\\n", " ")


@pytest.fixture(scope="module")
def sources(dockerfile: str) -> set[str]:
    """What the image copies from the repository."""
    copies = re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile, re.MULTILINE)
    return {source for copy in copies for source in copy.split()}


def test_hadolint_finds_nothing(root: Path, scripts: Path) -> None:
    done = subprocess.run(
        [scripts / "hadolint", "docker/Dockerfile"],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert (done.returncode, done.stdout) == (0, "")


def test_every_package_is_in_the_image(sources: set[str], pyproject: dict[str, Any]) -> None:
    packaged = pyproject["tool"]["setuptools"]["packages"]["find"]["include"]

    assert {pattern.removesuffix("*") for pattern in packaged} <= sources


def test_what_is_copied_exists_and_nothing_else_is_sent_to_the_builder(
    root: Path, sources: set[str]
) -> None:
    rules = (root / ".dockerignore").read_text().splitlines()
    allowed = {rule.removeprefix("!").removesuffix("/") for rule in rules if rule.startswith("!")}

    assert "*" in rules
    assert allowed == sources
    assert [source for source in sources if not (root / source).exists()] == []


def test_the_base_is_a_release_of_a_supported_python(
    dockerfile: str, pyproject: dict[str, Any]
) -> None:
    (version,) = re.findall(r"^ARG PYTHON_IMAGE=python:(\d+\.\d+\.\d+)-", dockerfile, re.MULTILINE)

    assert version in SpecifierSet(pyproject["project"]["requires-python"])


def test_packages_are_installed_by_hash_only(dockerfile: str) -> None:
    installations = re.findall(r"pip (?:install|sync) ([^&\n]*)", dockerfile)

    assert len(installations) == 3
    assert [
        i for i in installations if not {"--require-hashes", "--no-deps"} & set(i.split())
    ] == []


def test_the_image_runs_as_nobody_in_particular(dockerfile: str) -> None:
    final_stage = dockerfile.rpartition("\nFROM ")[2]

    assert re.findall(r"^USER (\S+)$", final_stage, re.MULTILINE) == ["10001:10001"]
