import pytest
from pydantic import ValidationError

from service.main import main
from service.settings import ServiceSettings, is_loopback


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("HOST", "0.0.0.0", "HGPROMPT_ALLOW_INSECURE_BIND"),  # noqa: S104
        ("HOST", "example.org", "not a loopback address"),
        ("PORT", "70000", "HGPROMPT_PORT"),
        ("ROLE", "worker", "HGPROMPT_ROLE"),
        ("HEARTBEAT_S", "29", "heartbeat_s"),
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


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        ServiceSettings().port = 1
