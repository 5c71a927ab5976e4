import json
import subprocess
import sys
from pathlib import Path

LOG = """
import logging
from jobs.logs import configure_logging
configure_logging("INFO", process="front-0")
logging.getLogger("uvicorn.error").info(
    "Started on %s", 8000, extra={"color_message": "Started on \\x1b[1m%s", "fit": "zoo@1"}
)
"""


def test_a_line_is_json_with_what_its_record_adds_but_nothing_for_terminals() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOG],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    (line,) = done.stderr.splitlines()
    found = json.loads(line)
    assert found.pop("timestamp")
    assert found == {
        "level": "INFO",
        "logger": "uvicorn.error",
        "message": "Started on 8000",
        "fit": "zoo@1",
        "process": "front-0",
    }
