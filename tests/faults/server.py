"""A real `python -m service`, looked at from outside."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).parents[2]
TINY_BACKBONE = "random:vit_tiny_patch16_224?seed=0&img_size=32&depth=2"
SLOW_BACKBONE = "random:vit_tiny_patch16_224?seed=0&depth=12"
"""Takes tens of milliseconds for an image, so that a queue can build up."""

IDLE = {
    "hgprompt_queue_depth": 0.0,
    "hgprompt_body_bytes": 0.0,
    "hgprompt_decode_queue_depth": 0.0,
    "hgprompt_requests_in_flight": 1.0,  # the scrape itself
}
"""What a service that holds nothing for anybody shows."""


class Server:
    """The process, on a free port of the loopback interface."""

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

    def wait_until_ready(self) -> str:
        """Return the base URL once the service listens."""
        deadline_s = time.monotonic() + 200
        while "Uvicorn running on " not in self.log:
            assert self.process.poll() is None, self.log
            assert time.monotonic() < deadline_s, self.log
            time.sleep(0.05)
        self.url = self.log.split("Uvicorn running on ")[1].split()[0]
        assert httpx.get(f"{self.url}/readyz").status_code == 200
        return self.url

    def metrics(self) -> dict[str, float]:
        """Scrape: `name` or `name:label value` to value."""
        text = httpx.get(f"{self.url}/metrics", timeout=30).text
        return {
            ":".join((sample.name, *sample.labels.values())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def wait_until_idle(self) -> dict[str, float]:
        """Scrape until nothing is held for anybody any more."""
        deadline_s = time.monotonic() + 30
        while True:
            metrics = self.metrics()
            if {name: metrics[name] for name in IDLE} == IDLE:
                return metrics
            assert time.monotonic() < deadline_s, metrics
            time.sleep(0.05)

    def peak_bytes(self) -> int:
        """The most memory that the process has had resident."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return 1024 * int(status.split("VmHWM:")[1].split()[0])

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(30)
