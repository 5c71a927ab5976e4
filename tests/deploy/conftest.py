"""What the static checks read: the repository's files, and Compose's own view of them."""

import json
import os
import subprocess
import sysconfig
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = Path(sysconfig.get_path("scripts"))
BASE = ("docker-compose.yml",)
CPU = ("docker-compose.yml", "docker/compose.cpu.yaml")

Compose = Callable[..., subprocess.CompletedProcess[str]]
ComposeConfig = Callable[[tuple[str, ...]], dict[str, Any]]


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def scripts() -> Path:
    """The folder of the environment's own executables."""
    return SCRIPTS


@pytest.fixture(scope="session")
def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture(scope="session")
def compose() -> Compose:
    """Run Compose on the given files; `environment` replaces every variable of ours."""

    def run(
        files: tuple[str, ...], *arguments: str, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        inherited = {
            k: v for k, v in os.environ.items() if not k.startswith(("HGPROMPT_", "COMPO"))
        }
        selected = [argument for file in files for argument in ("--file", file)]
        return subprocess.run(
            [SCRIPTS / "docker-compose", "--env-file", os.devnull, *selected, *arguments],
            cwd=ROOT,
            env=inherited | environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    return run


@pytest.fixture(scope="session")
def compose_config(compose: Compose) -> ComposeConfig:
    """Return the deployment as Compose understands it, all files merged."""

    def load(files: tuple[str, ...]) -> dict[str, Any]:
        done = compose(files, "config", "--format", "json", HGPROMPT_REDIS_PASSWORD="secret")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return load


@pytest.fixture(params=[BASE, CPU], ids=["gpu", "cpu"])
def files(request: pytest.FixtureRequest) -> tuple[str, ...]:
    return request.param


@pytest.fixture
def services(compose_config: ComposeConfig, files: tuple[str, ...]) -> dict[str, Any]:
    return compose_config(files)["services"]
