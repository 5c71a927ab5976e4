import os
import socket
from pathlib import Path

import joblib
import pytest
from pydantic import ValidationError

from prompt_store.scratch import PREFIX, scratch_folder
from service import settings as settings_module
from service.host_names import is_loopback
from service.main import main
from service.settings import ServiceSettings


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("HOST", "0.0.0.0", "HGPROMPT_ALLOW_INSECURE_BIND"),  # noqa: S104
        ("HOST", "example.org", "not a loopback address"),
        (
            "ALLOWED_HOSTS",
            "a.example,http://b.example",
            "HGPROMPT_ALLOWED_HOSTS='a.example,http://b.example': ",
        ),
        ("ALLOWED_HOSTS", "a.example:8000", "'a.example:8000' is neither a host name nor an IP"),
        ("ALLOWED_HOSTS", "*.example.org", "'*.example.org' is neither"),
        ("ALLOWED_HOSTS", "a.example,", "'' is neither"),
        ("PORT", "70000", "HGPROMPT_PORT"),
        ("ROLE", "worker", "HGPROMPT_ROLE"),
        (
            "HEARTBEAT_S",
            "29",
            "  HGPROMPT_HEARTBEAT_S=29 must be at most an eighth of HGPROMPT_LEASE_S=30",
        ),
        ("BACKBONE", "no-such-model", "no-such-model"),
        ("STORE_URL", "ftp://x/y", "ftp://x/y"),
    ],
)
def test_wrong_settings_are_explained_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str
) -> None:
    monkeypatch.setenv("HGPROMPT_BACKBONE", "random:vit_tiny_patch16_224?img_size=32&depth=1")
    monkeypatch.setenv(f"HGPROMPT_{name}", value)
    with pytest.raises(SystemExit) as caught:
        main()
    assert words in str(caught.value.code)


@pytest.mark.parametrize("name", ["UPLOAD_DIR", "RUNTIME_DIR"])
@pytest.mark.parametrize("folder", ["missing", "file", "/proc/self"])
def test_a_folder_that_cannot_be_written_to_is_refused_at_the_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, folder: str
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(os, "access", lambda path, _: str(path) != "/proc/self")  # also for root
    monkeypatch.setenv("HGPROMPT_FRONT_PROCESSES", "1")
    monkeypatch.setenv(f"HGPROMPT_{name}", str(tmp_path / folder))
    with pytest.raises(SystemExit) as caught:
        main()
    expected = f"HGPROMPT_{name}={tmp_path / folder} is not a folder that can be written to"
    assert expected in str(caught.value.code)


def test_folders_that_a_process_does_not_use_may_be_missing(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    ServiceSettings(role="classifier", upload_dir=missing)
    ServiceSettings(front_processes=0, runtime_dir=missing)


def test_a_port_in_use_is_told_of_before_anything_is_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HGPROMPT_BACKBONE", "no-such-model")
    monkeypatch.setattr("service.main.configure_logging", lambda _: None)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setenv("HGPROMPT_PORT", str(port))
        with pytest.raises(SystemExit) as caught:
            main()
    assert str(caught.value.code).startswith(f"service: cannot listen on 127.0.0.1:{port}: ")


def test_a_password_in_a_setting_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HGPROMPT_REDIS_URL", "redis://:hunter2@host/0")
    monkeypatch.setenv("HGPROMPT_LEASE_S", "1")
    with pytest.raises(SystemExit) as caught:
        main()
    assert "hunter2" not in str(caught.value.code)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_loopback_needs_no_permission(host: str) -> None:
    assert is_loopback(host)
    assert ServiceSettings(host=host).host == host


def test_beyond_loopback_needs_permission() -> None:
    for host in ("0.0.0.0", "::", "10.0.0.1", "box.local"):  # noqa: S104
        assert not is_loopback(host)
        assert ServiceSettings(host=host, allow_insecure_bind=True).host == host
        with pytest.raises(ValidationError):
            ServiceSettings(host=host)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("", ()),
        ("prompts.example.org", ("prompts.example.org",)),
        ("A.example, 10.0.0.1 ,[2001:DB8:0::1]", ("a.example", "10.0.0.1", "2001:db8::1")),
    ],
)
def test_allowed_hosts_are_separated_by_commas(
    monkeypatch: pytest.MonkeyPatch, value: str, expected: tuple[str, ...]
) -> None:
    assert not ServiceSettings(host="::", allow_insecure_bind=True).checks_hosts
    monkeypatch.setenv("HGPROMPT_ALLOWED_HOSTS", value)
    assert ServiceSettings().allowed_hosts == expected
    assert ServiceSettings().checks_hosts
    assert ServiceSettings(host="::", allow_insecure_bind=True).checks_hosts == bool(expected)


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        ServiceSettings().port = 1


@pytest.mark.parametrize(
    ("where", "settings"),
    [
        ("TMPDIR", {"HGPROMPT_ROLE": "nobody"}),
        ("HGPROMPT_UPLOAD_DIR", {"HGPROMPT_BACKBONE": "no-such-model"}),
        ("HGPROMPT_RUNTIME_DIR", {"HGPROMPT_FRONT_PROCESSES": "1", "HGPROMPT_HOST": "192.0.2.1"}),
    ],
)
def test_a_start_removes_what_killed_processes_left(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, where: str, settings: dict[str, str]
) -> None:
    """However far the start comes."""
    own = {where: str(tmp_path), "HGPROMPT_ALLOW_INSECURE_BIND": "true", **settings}
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("service.main.configure_logging", lambda _: None)
    with scratch_folder(tmp_path) as in_use:
        (tmp_path / f"{PREFIX}left" / "inner").mkdir(parents=True)
        with pytest.raises(SystemExit):
            main()
        assert list(tmp_path.iterdir()) == [in_use]


@pytest.mark.parametrize(
    ("gpu", "device", "asked", "fronts"),
    [
        (True, "auto", "auto", 8),
        (True, "cuda", "auto", 8),
        (True, "cpu", "auto", 0),
        (False, "auto", "auto", 0),
        (True, "auto", 3, 3),
        (True, "auto", 0, 0),
        (False, "cpu", 2, 2),
    ],
)
def test_a_gpu_gets_a_front_for_two_processors_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch, gpu: bool, device: str, asked: str | int, fronts: int
) -> None:
    monkeypatch.setattr(settings_module, "has_nvidia_gpu", lambda: gpu)
    monkeypatch.setattr(joblib, "cpu_count", lambda: 16)
    monkeypatch.setenv("HGPROMPT_DEVICE", device)
    monkeypatch.setenv("HGPROMPT_FRONT_PROCESSES", str(asked))
    settings = ServiceSettings()
    assert settings.num_fronts == fronts
    assert settings.has_fronts == (fronts > 0)
    assert not ServiceSettings(role="api").has_fronts


def test_a_large_machine_gets_no_more_fronts_than_an_engine_can_serve(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(settings_module, "has_nvidia_gpu", lambda: True)
    monkeypatch.setattr(joblib, "cpu_count", lambda: 192)
    assert ServiceSettings().num_fronts == settings_module.MAX_AUTO_FRONTS == 32


def test_processors_that_it_may_not_use_do_not_count(one_processor: None) -> None:
    del one_processor
    assert ServiceSettings().decode_threads == 1
