import io
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from client.api import Client
from client.demo_service import own_service, temporary_folder
from client.errors import StartError
from client.supervisor import RestartPolicy
from client.up import LocalOptions

Command = tuple[str, ...]
MakeScript = Callable[[str, str], Command]

SERVICE = """
import http.server, os
class Ready(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
address = (os.environ["HGPROMPT_HOST"], int(os.environ["HGPROMPT_PORT"]))
http.server.HTTPServer(address, Ready).serve_forever()
"""


def options(folder: Path, service: Command, worker: Command) -> LocalOptions:
    policy = RestartPolicy(max_quick_deaths=2, first_delay_s=0.05)
    return LocalOptions(folder, "127.0.0.1", 0, os.environ, service, worker, policy)


def test_a_worker_that_keeps_dying_ends_whatever_is_waited_for(
    script: MakeScript, tmp_path: Path
) -> None:
    local = options(
        tmp_path, script("service", SERVICE), script("worker", "raise SystemExit('no memory')")
    )
    begun_s = time.monotonic()
    with (
        pytest.raises(StartError, match=r"worker ended with exit status 1 \(no memory\)"),
        own_service(Console(file=io.StringIO()), local, verbose=False),
    ):
        time.sleep(300)
    assert time.monotonic() - begun_s < 60


def test_ctrl_c_ends_the_service_too(script: MakeScript, tmp_path: Path) -> None:
    local = options(
        tmp_path, script("service", SERVICE), script("worker", "import time; time.sleep(600)")
    )
    urls: list[str] = []

    def interrupted() -> None:
        with own_service(Console(file=io.StringIO()), local, verbose=False) as service:
            assert service.client.readiness().ready
            urls.append(service.client.base_url)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with Client(urls[0]) as client:
        assert not client.readiness().ready


@pytest.mark.parametrize("keep", [True, False])
def test_the_temporary_folder_is_kept_if_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, keep: bool
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with temporary_folder(keep=keep) as folder:
        (folder / "file").touch()
    assert folder.exists() == keep
