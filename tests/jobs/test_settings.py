import pytest
from pydantic import ValidationError

from jobs.settings import DeploymentSettings


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HGPROMPT_REDIS_URL", "unix:///run/redis.sock")
    monkeypatch.setenv("HGPROMPT_LEASE_S", "60")
    settings = DeploymentSettings()
    assert settings.redis_url == "unix:///run/redis.sock"
    assert settings.lease_s == 60.0


def test_a_lease_holds_several_heartbeats() -> None:
    with pytest.raises(ValidationError, match="HEARTBEAT_S=2 must be at most an eighth"):
        DeploymentSettings(lease_s=15.0, heartbeat_s=2.0)


@pytest.mark.parametrize(
    "url", ["", "redis", "http://127.0.0.1", "memory://", "valkey+unix:///run/redis.sock"]
)
def test_other_urls_of_redis_are_refused_by_name(url: str) -> None:
    with pytest.raises(ValidationError, match="redis_url"):
        DeploymentSettings(redis_url=url)
