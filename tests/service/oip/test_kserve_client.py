"""KServe's own client, unchanged, in an environment of its own, against a real process."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[3]
PYTHON = ROOT / ".venv-kserve" / "bin" / "python"


def test_kserve_client(zoo: Any, image: Callable[..., bytes], tmp_path: Path) -> None:
    if not PYTHON.exists() and not os.environ.get("CI"):
        pytest.skip(f"{PYTHON} is missing; `make test` installs it")
    path = tmp_path / "image.png"
    path.write_bytes(image(0))
    done = subprocess.run(
        [PYTHON, Path(__file__).with_name("kserve_client.py"), zoo.url, path],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["live"], found["ready"], found["model"], found["missing"]) == (
        True,
        True,
        True,
        False,
    )
    assert len(found["json"]["probabilities"]) == 3
    np.testing.assert_allclose(
        found["binary"]["probabilities"], found["json"]["probabilities"], atol=1e-5
    )
    assert found["binary"]["label"] == found["json"]["label"]
    assert "row 0 of input 'image' is not base64" in found["error"]
