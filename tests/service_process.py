"""A real `python -m service`: started with settings of a test's choice, waited for, ended."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.tiny_backbone import TINY_BACKBONE

ROOT = Path(__file__).parents[1]
START_LIMIT_S = 200.0


class ServiceProcess:
    """The process, on a free port of the loopback interface; its log is `service.log`."""

    def __init__(self, folder: Path, store_url: str, redis_url: str, **settings: object) -> None:
        self.log_path = folder / "service.log"
        self.url = ""
        chosen = {
            "host": "127.0.0.1",
            "port": 0,
            "store_url": store_url,
            "redis_url": redis_url,
            "backbone": TINY_BACKBONE,
            "device": "cpu",
            "serving_precision": "fp32",  # so that answers can be compared exactly
            "cache_dir": folder,
            "upload_dir": folder,
            **settings,
        }
        environment = {f"HGPROMPT_{key.upper()}": str(value) for key, value in chosen.items()}
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "service"],
                cwd=ROOT,
                env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
                stderr=log,
            )

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def wait_for_url(self, words: str) -> str:
        """Wait until the log has the base URL, behind `words`."""
        deadline_s = time.monotonic() + START_LIMIT_S
        while words not in self.log:
            assert self.process.poll() is None, self.log
            assert time.monotonic() < deadline_s, self.log
            time.sleep(0.05)
        self.url = self.log.split(words)[1].split()[0]
        return self.url

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(30)


def eventually(holds: Callable[[], bool], timeout_s: float = 60.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
